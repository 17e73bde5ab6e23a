"use strict";
// A leaderboard: its filters, the rows chosen, and the charts of these.
(() => {
  const board = cmr.data();
  const { charts } = cmr;
  const table = document.getElementById("board");
  const value = (id) => document.getElementById(id)?.value || "";
  const boxes = () => [...table.querySelectorAll("tbody .pick input")];
  const idOf = (box) => Number(box.closest("tr").dataset.id);
  // Of each row that is plotted, the place of its colour: it keeps it while others come and go.
  let chosen = new Map();

  function filter() {
    cmr.filter(table, (row) => {
      const { dataset } = row;
      return cmr.matches(row.textContent, value("f-text")) && ["family", "image", "words", "kind"].every((name) => {
        const wanted = value(`f-${name}`);
        return !wanted || dataset[name] === wanted;
      }) && Number(dataset.seeds) >= Number(value("f-seeds"));
    }, document.getElementById("count"), "rows");
  }

  function columns() {
    const wanted = value("f-columns");
    for (const cell of table.querySelectorAll("[data-group]")) {
      cell.hidden = wanted !== "all" && cell.dataset.group !== wanted;
    }
    table.classList.toggle("intervals", document.getElementById("f-intervals").checked);
  }

  function choose(ids) {
    const before = chosen;
    chosen = new Map(ids.filter((id) => before.has(id)).map((id) => [id, before.get(id)]));
    for (const id of ids) take(id);
    for (const box of boxes()) box.checked = chosen.has(idOf(box));
    changed();
  }

  function take(id) {
    if (chosen.has(id)) return;
    const taken = new Set(chosen.values());
    let place = 0;
    while (taken.has(place)) place += 1;
    chosen.set(id, place);
  }

  function changed() {
    for (const row of table.tBodies[0].rows) {
      const place = chosen.get(Number(row.dataset.id));
      row.toggleAttribute("data-plotted", place !== undefined);
      row.style.setProperty("--row", place === undefined ? "" : charts.colour(place));
    }
    document.getElementById("chosen").textContent = chosen.size;
    const runs = items().map((row) => row.runs[0]).filter(Boolean);
    const link = document.getElementById("compare");
    link.href = `compare.html#${new URLSearchParams({ runs: runs.join(",") })}`;
    link.setAttribute("aria-disabled", runs.length < 2);
    charts.redraw();
  }

  function items() {
    return [...chosen].sort(([a], [b]) => a - b).map(([id, place]) => ({ ...board.rows[id], id, place }));
  }

  // Half widths of the whisker: standard deviation over seeds, else the interval over queries.
  function whisker(row, name) {
    const mean = row.metrics[name];
    if (name in row.spread) return [row.spread[name], row.spread[name]];
    if (name in row.interval) return [Math.max(0, mean - row.interval[name][0]), Math.max(0, row.interval[name][1] - mean)];
    return [null, null];
  }

  function bars(rows, names, heads, axes) {
    const error = names.map((name) => whisker(rows, name));
    return { type: "bar", x: heads, y: names.map((name) => rows.metrics[name] ?? null), name: charts.lines(rows.label),
      legendgroup: String(rows.place), marker: { color: charts.colour(rows.place), opacity: rows.measured ? 1 : 0.45,
        pattern: { shape: rows.place < charts.COLOURS.length ? "" : "/", fillmode: "overlay", fgcolor: charts.style("--card") } },
      error_y: { type: "data", symmetric: false, array: error.map((one) => one[1]), arrayminus: error.map((one) => one[0]), thickness: 1.3, width: 2, color: charts.style("--ink") },
      hoverinfo: "text", hovertext: names.map((name, at) => `${charts.plain(rows.label)}<br>${heads[at]}: ${rows.metrics[name] ?? "none"}`), ...axes };
  }

  function figures(rows, names) {
    return rows.flatMap((row) => names.filter((name) => name in row.metrics).map((name) => {
      const [below, above] = whisker(row, name);
      const kind = name in row.spread ? "sd" : "interval";
      return [row.label, board.names[name], row.metrics[name], below === null ? "" : `−${below.toPrecision(3)} / +${above.toPrecision(3)} (${kind})`];
    }));
  }

  function recall() {
    const ways = ["i2t", "t2i"].map((way) => [1, 5, 10].map((k) => `${way}_r${k}`));
    const rows = items().filter((row) => ways.flat().some((name) => name in row.metrics));
    if (!rows.length) return null;
    const heads = ["R@1", "R@5", "R@10"];
    const traces = rows.flatMap((row) => [bars(row, ways[0], heads, {}), bars(row, ways[1], heads, { xaxis: "x2", yaxis: "y2", showlegend: false })]);
    return { traces, heads: ["Row", "Metric", "Value", "Whisker"], rows: figures(rows, ways.flat()),
      layout: charts.panels("Image query, texts ranked", "Text query, images ranked", {}, { rangemode: "tozero", title: "percent" }),
      summary: `Bars of recall at 1, 5 and 10 in both directions for ${rows.length} rows. The data are in the table below the plot.` };
  }

  function map() {
    const names = ["i2t_map", "t2i_map", "map"];
    const rows = items().filter((row) => names.some((name) => name in row.metrics));
    if (!rows.length) return null;
    return { traces: rows.map((row) => bars(row, names, ["image query", "text query", "mean"], {})), heads: ["Row", "Metric", "Value", "Whisker"],
      rows: figures(rows, names), layout: charts.layout({ xaxis: charts.axis(), yaxis: charts.axis({ title: "mAP", rangemode: "tozero" }) }),
      summary: `Bars of mean average precision in both directions for ${rows.length} rows. The data are in the table below the plot.` };
  }

  const wanted = { cost: "train", metric: board.main, seeds: board.main, learning: "", loss: "train/loss" };
  const COSTS = { train: "training, seconds", query: "one query, milliseconds", parameters: "trained parameters" };

  function cost() {
    const rows = items().filter((row) => row.cost[wanted.cost] > 0 && wanted.metric in row.metrics);
    if (!items().some((row) => Object.keys(row.cost).length)) return null;
    const traces = rows.map((row) => {
      const [below, above] = whisker(row, wanted.metric);
      return { type: "scatter", mode: "markers", x: [row.cost[wanted.cost]], y: [row.metrics[wanted.metric]], name: charts.lines(row.label),
        error_y: { type: "data", symmetric: false, array: [above], arrayminus: [below], thickness: 1.2, width: 3 },
        marker: { size: 12, color: charts.colour(row.place), symbol: board.shapes[row.family] || "star" }, hoverinfo: "text",
        hovertext: [`${charts.plain(row.label)}<br>${board.names[wanted.metric]} ${row.metrics[wanted.metric]}<br>${COSTS[wanted.cost]}: ${row.cost[wanted.cost]}`] };
    });
    return { traces, heads: ["Row", COSTS[wanted.cost], board.names[wanted.metric]],
      rows: rows.map((row) => [row.label, row.cost[wanted.cost], row.metrics[wanted.metric]]),
      layout: charts.layout({ xaxis: charts.axis({ type: "log", title: COSTS[wanted.cost] }), yaxis: charts.axis({ title: board.names[wanted.metric] }) }),
      summary: `${board.names[wanted.metric]} against ${COSTS[wanted.cost]} for ${rows.length} rows. The data are in the table below the plot.` };
  }

  function seeds() {
    const name = wanted.seeds;
    const rows = items().filter((row) => (row.seeds[name] || []).length > 1);
    if (!rows.length) return null;
    const traces = rows.flatMap((row, place) => [
      { type: "scatter", mode: "markers", x: row.seeds[name], y: row.seeds[name].map(() => place), hoverinfo: "text", showlegend: false,
        marker: { size: 9, color: charts.colour(row.place), opacity: 0.75 }, hovertext: row.seeds[name].map((one) => `${charts.plain(row.label)}<br>${one}`) },
      { type: "scatter", mode: "markers", x: [row.metrics[name]], y: [place], hoverinfo: "skip", showlegend: false,
        marker: { size: 22, symbol: "line-ns-open", color: charts.colour(row.place), line: { width: 2 } } }]);
    return { traces, heads: ["Row", "Seeds", "Mean", "Standard deviation", "Values"],
      rows: rows.map((row) => [row.label, row.seeds[name].length, row.metrics[name], row.spread[name], row.seeds[name].join(", ")]),
      layout: charts.layout({ height: 130 + rows.reduce((all, row) => all + Math.max(34, 16 * charts.lines(row.label, charts.narrow() ? 16 : 26).split("<br>").length), 0), margin: { l: 8, r: 12, t: 10, b: 44 }, xaxis: charts.axis({ title: board.names[name] }),
        yaxis: charts.axis({ tickvals: rows.map((_, place) => place), ticktext: rows.map((row) => charts.lines(row.label, charts.narrow() ? 16 : 26)),
          autorange: "reversed", zeroline: false }) }),
      summary: `${board.names[name]} of every seed for ${rows.length} rows. The data are in the table below the plot.` };
  }

  async function histories() {
    const found = [];
    for (const row of items()) {
      for (const slug of row.runs.slice(0, 3)) {
        const { own } = await cmr.load(slug);
        found.push({ place: row.place, name: row.label, label: `${row.label}: ${own.label}`, history: own.history });
      }
    }
    return found;
  }

  const pickers = {};
  function picker(id, key, names, preferred) {
    if (!names.includes(wanted[key])) wanted[key] = preferred.find((name) => names.includes(name)) || names[0] || "";
    if (pickers[id]?.join() === names.join()) return;
    pickers[id] = names;
    document.querySelector(`#${id} .controls`).replaceChildren();
    if (names.length > 1) {
      charts.select(id, "Curve", names.map((name) => [name, title(name)]), wanted[key], (name) => {
        wanted[key] = name;
        charts.redraw();
      });
    }
  }

  const title = (name) => board.names[name.replace("val/", "")] || name.replace(/^(val|train)\//, "");

  async function curves(id, key, prefix, preferred) {
    const lines = await histories();
    const names = [...new Set(lines.flatMap((line) => Object.keys(line.history)))].filter((name) => name.startsWith(prefix) && name !== "val/selection");
    if (!names.length) return null;
    picker(id, key, names, preferred);
    return charts.epochs(lines, wanted[key], title(wanted[key]));
  }

  cmr.sortable(table);
  document.getElementById("filters").addEventListener("input", () => { filter(); columns(); });
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  table.addEventListener("change", (event) => {
    if (!event.target.matches(".pick input")) return;
    if (event.target.checked) take(idOf(event.target));
    else chosen.delete(idOf(event.target));
    changed();
  });
  document.getElementById("draw-shown").addEventListener("click", () => {
    choose(boxes().filter((box) => !box.closest("tr").hidden).slice(0, 8).map(idOf));
  });
  document.getElementById("draw-none").addEventListener("click", () => choose([]));
  filter();
  columns();

  const metrics = Object.entries(board.names);
  charts.select("c-cost", "Cost", Object.entries(COSTS), wanted.cost, (name) => { wanted.cost = name; charts.redraw(); });
  charts.select("c-cost", "Accuracy", metrics, wanted.metric, (name) => { wanted.metric = name; charts.redraw(); });
  charts.select("c-seeds", "Metric", metrics, wanted.seeds, (name) => { wanted.seeds = name; charts.redraw(); });
  const measured = board.rows.map((row, id) => [row, id]).filter(([row]) => row.measured);
  choose((measured.length ? measured : board.rows.map((row, id) => [row, id])).slice(0, 6).map(([, id]) => id));
  charts.add("c-recall", recall);
  charts.add("c-map", map);
  charts.add("c-cost", cost);
  charts.add("c-pr", () => charts.precisionRecall(items()));
  charts.add("c-learning", () => curves("c-learning", "learning", "val/", [`val/${board.main}`, "val/rsum"]));
  charts.add("c-loss", () => curves("c-loss", "loss", "train/", ["train/loss"]));
  charts.add("c-seeds", seeds);
  cmr.breakdown.add(items);
  cmr.breakdown.places("c-ranks", board, items);
})();
