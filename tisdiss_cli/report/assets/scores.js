// Scores of several settings: two of them compared file by file, and the worst files.

const settings = DATA.settings; // names
const rows = DATA.rows.map(([id, values, remarks]) => ({ id, values, remarks }));

function pick(label, chosen) {
  const select = make("select", { "aria-label": label }, ...settings.map((name, k) => make("option", { value: k }, name)));
  select.value = String(chosen);
  return select;
}

function main() {
  chartWidth = 400;
  $("sentence").textContent = DATA.sentence;
  for (const [name, value, style] of DATA.facts) addFact($("facts"), name, visible(String(value)), style);
  $("files").hidden = !rows.length;
  const several = settings.length > 1, { first, second } = DATA.pair;
  const from = pick("this setting", first), to = pick("against this one", second);
  if (several) $("pair").append("from ", from, " to ", to);

  function show() {
    const a = Number(from.value), b = several ? Number(to.value) : a;
    const value = (k) => (row) => row.values[k];
    const gain = (row) => (row.values[a] === null || row.values[b] === null ? null : row.values[b] - row.values[a]);
    $("charts").replaceChildren();
    qualityCurve($("charts"), DATA.curves);
    histogram($("charts"), `SI-SNRi in dB, ${settings[b]}`, rows.map(value(b)), "dB", 2);
    if (several && a !== b) histogram($("charts"), `${settings[b]} minus ${settings[a]} in dB, by file`, rows.map(gain), "dB", 2);
    const number = (key, title, get, text) => ({ key, title, width: "110px", number: true, unit: " dB", value: get, text: (row) => (get(row) === null ? "" : text(get(row), 2)) });
    const columns = [
      { key: "name", title: "file", width: "minmax(180px, 5fr)", value: (row) => row.id, text: (row) => visible(row.id) },
      number("b", settings[b], value(b), fixed),
      ...(several ? [number("a", settings[a], value(a), fixed), number("gain", "difference", gain, signed)] : []),
      { key: "remarks", title: "remarks", width: "minmax(0, 4fr)", value: (row) => row.remarks, text: (row) => visible(row.remarks), style: () => "faint" },
    ];
    const low = (row) => (row.values[b] === null ? Infinity : row.values[b]);
    const worst = [...rows].sort((x, y) => low(x) - low(y) || 0);
    const table = makeTable($("table"), columns, worst, { haystack: (row) => visible(row.id) + " " + visible(row.remarks) });
    $("search").oninput = (event) => {
      table.words = event.target.value;
      table.refresh();
    };
    table.words = $("search").value;
    table.refresh();
  }
  from.addEventListener("change", show);
  to.addEventListener("change", show);
  if (rows.length) show();
  else qualityCurve($("charts"), DATA.curves);
}

main();
