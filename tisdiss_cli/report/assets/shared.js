"use strict";
// Helpers of every page. Names are untrusted: they reach the page only through textContent and encoded().

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Returns an element with properties, attributes (names with a dash) and children (elements or text). */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
function draw(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Returns a name on one line, with invisible characters and bytes that are not UTF-8 as escapes. */
function visible(text) {
  return text.replace(/[\p{C}\u2028\u2029]/gu, (letter) => {
    const code = letter.codePointAt(0);
    if (code === 0x200c || code === 0x200d) return letter; // joiners, which scripts and emoji need
    const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    if (short) return short;
    if (code >= 0xdc80 && code <= 0xdcff) return "\\x" + (code - 0xdc00).toString(16);
    return "\\u" + code.toString(16).padStart(4, "0");
  });
}

/** Percent-encodes a path byte for byte; lone surrogates are Python's bytes that are not UTF-8. */
function encoded(path) {
  return Array.from(path, (letter) => {
    const code = letter.codePointAt(0);
    if (letter === "/") return letter;
    if (code >= 0xdc80 && code <= 0xdcff) return "%" + (code - 0xdc00).toString(16).toUpperCase();
    return code >= 0xd800 && code <= 0xdfff ? "%EF%BF%BD" : encodeURIComponent(letter);
  }).join("");
}

/** Formats a number with a true minus sign, and none before a zero. */
function fixed(value, digits) {
  if (value === null || value === undefined) return "";
  const text = value.toFixed(digits);
  return Number(text) ? text.replace("-", "−") : text.replace("-", "");
}
const signed = (value, digits) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + fixed(value, digits);
const narrow = () => innerWidth < 760;

/** Formats seconds as 4.0 s, 1:05 or 1:02:03. */
function clock(seconds, always = false) {
  if (seconds < 60 && !always) return seconds.toFixed(1) + " s";
  const whole = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return (hours ? hours + ":" + two(minutes) : String(minutes)) + ":" + two(whole % 60);
}

function addFact(list, name, value, style = "") {
  const broad = value.length > 14 ? " broad" : "";
  list.append(make("div", { className: style + broad }, make("dt", {}, name), make("dd", {}, value)));
}

function quantile(sorted, share) {
  const at = (sorted.length - 1) * share, low = Math.floor(at), high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}
