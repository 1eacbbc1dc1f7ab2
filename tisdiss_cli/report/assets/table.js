// Table of any length, with elements only for the rows in view and a few beyond.

/**
 * Makes a table whose rows are links if there is `address(row)`, in the order of `rows` until the user sorts them.
 * columns: [{key, title, width, value(row), text(row), number, unit, style(row)}]; empty columns are left out.
 */
function makeTable(place, columns, rows, { haystack, address }) {
  columns = columns.filter((column) => column.key === "name" || rows.some((row) => column.text(row)));
  const heads = make("div", { className: "heads", role: "row" });
  const list = make("div", { className: "list", role: "rowgroup" });
  const empty = make("p", { className: "empty", hidden: true }, "No file matches.");
  place.replaceChildren(make("div", { className: "table", role: "table", "aria-rowcount": rows.length }, heads, list, empty));
  place.style.setProperty("--columns", columns.map((column) => column.width).join(" "));
  const table = { order: rows, sort: null, words: "", keep: () => true, refresh };
  const hay = new Map();
  const shown = new Map(); // row -> element
  let height = 36, waiting = false;

  for (const column of columns) {
    const button = make("button", { type: "button" }, column.title);
    const head = make("span", { className: `c-${column.key}${column.number ? " number" : ""}`, role: "columnheader", "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      const again = table.sort && table.sort.column === column;
      table.sort = { column, down: again ? !table.sort.down : Boolean(column.down) };
      for (const other of heads.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", table.sort.down ? "descending" : "ascending");
      refresh();
    });
    heads.append(head);
  }

  function text(row) {
    if (!hay.has(row)) hay.set(row, haystack(row).toLowerCase());
    return hay.get(row);
  }

  /** Filters and sorts; rows without a value come last either way. */
  function refresh() {
    const words = table.words.toLowerCase().split(/\s+/).filter(Boolean);
    table.order = rows.filter((row) => table.keep(row) && (!words.length || words.every((word) => text(row).includes(word))));
    if (table.sort) {
      const { column, down } = table.sort, way = down ? -1 : 1;
      const keyed = table.order.map((row) => [column.value(row), row]);
      const none = (value) => value === null || value === undefined || value === "";
      keyed.sort(([a], [b]) => {
        if (none(a) || none(b)) return none(a) - none(b);
        return way * (typeof a === "string" ? collate(a, b) : a - b);
      });
      table.order = keyed.map(([, row]) => row);
    }
    for (const element of shown.values()) element.remove();
    shown.clear();
    empty.hidden = table.order.length > 0;
    measure();
  }

  function measure() {
    height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
    list.style.height = table.order.length * height + "px";
    for (const element of shown.values()) element.remove();
    shown.clear();
    paint();
  }

  function paint() {
    waiting = false;
    const top = list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - 10);
    const last = Math.min(table.order.length, Math.ceil((innerHeight - top) / height) + 10);
    const inView = new Set(table.order.slice(first, Math.max(first, last)));
    for (const [row, element] of shown) {
      if (!inView.has(row)) {
        element.remove();
        shown.delete(row);
      }
    }
    for (let index = first; index < last; index++) {
      const row = table.order[index];
      if (!shown.has(row)) {
        const element = line(row, index);
        shown.set(row, element);
        list.append(element);
      }
    }
  }

  function line(row, index) {
    const cells = columns.map((column) => {
      const words = column.text(row), style = column.style ? column.style(row) : "";
      return make("span", {
        className: `c-${column.key}${column.number ? " number" : ""} ${style}`, role: "cell", title: words,
        "data-unit": words && column.unit ? column.unit : null,
      }, words);
    });
    const element = make(address ? "a" : "div", { className: "row", role: "row", href: address && address(row) }, ...cells);
    element.style.top = index * height + "px";
    return element;
  }

  const later = () => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(paint);
    }
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", measure);
  table.paint = paint;
  refresh();
  return table;
}

const collate = new Intl.Collator("en", { numeric: true }).compare;
