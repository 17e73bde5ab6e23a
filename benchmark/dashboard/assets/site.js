"use strict";
// What every page shares: elements, data of runs, tables that sort and filter. Text from runs only ever becomes text.
const cmr = (() => {
  const root = document.documentElement.dataset.root;
  const waiting = new Map();

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") made.textContent = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function script(address) {
    return new Promise((resolve, reject) => {
      document.head.append(element("script", { src: root + address, onload: resolve,
        onerror: () => reject(new Error(`cannot read ${address}`)) }));
    });
  }

  // Pages opened from disk may not fetch, so data comes as scripts that call receive().
  const loaded = new Map();
  function load(name) {
    if (!loaded.has(name)) {
      loaded.set(name, new Promise((resolve, reject) => {
        waiting.set(name, resolve);
        script(`data/${name}.js`).catch(reject);
      }));
    }
    return loaded.get(name);
  }

  function receive(name, value) {
    waiting.get(name)(value);
  }

  let library = null;
  function plotly() {
    library = library || script("assets/plotly.min.js").then(() => window.Plotly);
    return library;
  }

  function data() {
    return JSON.parse(document.getElementById("data").textContent);
  }

  function cellValue(row, column, isText) {
    const cell = row.cells[column];
    const value = cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
    if (isText) return value === "" ? null : value.toLowerCase();
    return value === "" ? null : Number(value);
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const isText = head.dataset.type === "text";
        const first = isText || "lower" in head.dataset ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, column, isText), row]);
        // Rows without a value come last in both orders.
        rows.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * (isText ? a.localeCompare(b, "en", { numeric: true }) : a - b);
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  function filter(table, keep, status, noun) {
    const rows = [...table.tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !keep(row);
      shown += !row.hidden;
    }
    const named = rows.length === 1 ? noun.replace(/s$/, "") : noun;
    status.textContent = shown === rows.length ? `${shown} ${named}` : `${shown} of ${rows.length} ${named}`;
  }

  function matches(text, query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const where = text.toLowerCase();
    return words.every((word) => where.includes(word));
  }

  function table(heads, rows, options = {}) {
    return element("table", { class: options.class || "board small" },
      options.caption ? element("caption", { text: options.caption }) : null,
      element("thead", {}, element("tr", {}, ...heads.map((head, place) =>
        element("th", { scope: "col", class: place && options.numbers ? "num" : null }, head)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, place) => {
        const made = element(place ? "td" : "th", place ? { class: options.numbers ? "num" : null } : { scope: "row" });
        made.append(cell instanceof Node ? cell : String(cell ?? ""));
        return made;
      })))));
  }

  function state() {
    return new URLSearchParams(location.hash.slice(1));
  }

  function keep(values) {
    const parts = new URLSearchParams(values);
    history.replaceState(null, "", `#${parts}`);
  }

  function download(text, name, type) {
    const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    const link = element("a", { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  const fileName = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 80) || "export";

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
  });

  return { element, load, receive, plotly, data, sortable, filter, matches, table, state, keep, download, fileName };
})();
