"use strict";
// Recall by the size of the gallery and by the length of the caption, and places under two seeds.
cmr.breakdown = (() => {
  const { charts } = cmr;
  const KS = ["1", "5", "10"];
  const kept = { gallery: "1", length: "1" };
  const line = (item) => ({ color: charts.colour(item.place), dash: charts.dash(item.place), width: 2 });
  const percent = (value) => `${value.toFixed(1)}%`;

  function gallery(items) {
    const drawn = items.filter((item) => item.gallery);
    if (!drawn.length) return null;
    const k = kept.gallery;
    const traces = [];
    const rows = [];
    for (const item of drawn) {
      for (const [number, way] of [["", "i2t"], ["2", "t2i"]]) {
        const { sizes, [k]: values } = item.gallery[way];
        traces.push({ type: "scatter", mode: "lines+markers", x: sizes, y: values, xaxis: `x${number}`, yaxis: `y${number}`, name: charts.lines(item.label),
          legendgroup: String(item.place), showlegend: !number, marker: { size: 5 }, line: line(item), hoverinfo: "text",
          hovertext: values.map((value, at) => `${charts.plain(item.label)}<br>${sizes[at].toLocaleString("en")} items: ${percent(value)}`) });
        values.forEach((value, at) => rows.push([item.label, way, sizes[at], value]));
      }
    }
    const y = { title: `R@${k}, percent`, range: [0, 102] };
    // A tick at 10, 100, 1000 …: those between crowd a narrow panel.
    const x = { type: "log", dtick: 1 };
    return { traces, rows, heads: ["Row", "Direction", "Items in the gallery", `R@${k}`],
      layout: charts.panels("Image query, gallery of texts", "Text query, gallery of images", { ...x, title: "texts" }, y, { ...x, title: "images" }),
      summary: `Recall at ${k} against the size of the gallery in both directions, ${drawn.length} rows. The data are in the table below the plot.` };
  }

  function lengths(items) {
    const having = items.filter((item) => item.length);
    if (!having.length) return null;
    const k = kept.length;
    const { bins, n } = having[0].length;
    // Rows that split captions into words otherwise have other lengths.
    const drawn = having.filter((item) => item.length.bins.join() === bins.join());
    const traces = drawn.map((item) => ({ type: "scatter", mode: "lines+markers", x: bins, y: item.length[k], name: charts.lines(item.label), marker: { size: 6 },
      line: line(item), hoverinfo: "text", hovertext: item.length[k].map((value, at) => `${charts.plain(item.label)}<br>${bins[at]} words: ${percent(value)} of ${n[at].toLocaleString("en")}`) }));
    return { traces, heads: ["Row", "Words", "Captions", `t2i R@${k}`],
      rows: drawn.flatMap((item) => bins.map((bin, at) => [item.label, bin, n[at], item.length[k][at]])),
      layout: charts.layout({ xaxis: charts.axis({ title: "words of the caption", type: "category" }), yaxis: charts.axis({ title: `t2i R@${k}, percent`, rangemode: "tozero" }) }),
      summary: `Recall at ${k} of text queries by the number of their words, ${drawn.length} rows. The data are in the table below the plot.` };
  }

  function add(items) {
    for (const [id, key, make] of [["c-gallery", "gallery", gallery], ["c-length", "length", lengths]]) {
      charts.select(id, "Recall at", KS.map((k) => [k, k]), kept[key], (k) => { kept[key] = k; charts.redraw(); });
      charts.add(id, () => make(items()));
    }
  }

  // Place of each value among all, equal values sharing one.
  function ranks(values, lower) {
    return values.map((value) => 1 + values.filter((other) => (lower ? other < value : other > value)).length);
  }

  function places(id, board, items) {
    const counts = new Map();
    for (const row of board.rows) {
      for (const name of Object.keys(row.seeds).length ? row.repeats : []) counts.set(name, (counts.get(name) || 0) + 1);
    }
    const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b, "en", { numeric: true }));
    const metrics = Object.keys(board.names).filter((name) => board.rows.some((row) => (row.seeds[name] || []).length > 1));
    if (names.length < 2 || !metrics.length) return;
    const asked = { metric: metrics.includes(board.main) ? board.main : metrics[0], one: names[0], other: names[1] };
    const sorted = [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const set = (key) => (value) => { asked[key] = value; charts.redraw(); };
    const title = (name) => (/\D/.test(name) ? name : `seed ${name}`);
    charts.select(id, "Metric", metrics.map((name) => [name, board.names[name]]), asked.metric, set("metric"));
    charts.select(id, "From", sorted.map((name) => [name, title(name)]), asked.one, set("one"));
    charts.select(id, "To", sorted.map((name) => [name, title(name)]), asked.other, set("other"));
    charts.add(id, () => bumps(board, items(), asked, title));
  }

  function bumps(board, items, { metric, one, other }, title) {
    const value = (row, name) => row.seeds[metric]?.[row.repeats.indexOf(name)];
    const both = board.rows.map((row, at) => ({ ...row, at })).filter((row) => value(row, one) !== undefined && value(row, other) !== undefined);
    if (both.length < 2) return null;
    const lower = board.lower.includes(metric);
    const [before, after] = [one, other].map((name) => ranks(both.map((row) => value(row, name)), lower));
    const rows = both.map((row, at) => ({ row, from: before[at], to: after[at] }));
    const place = new Map(items.map((item) => [item.id, item.place]));
    const ends = [title(one), title(other)];
    const drawn = rows.filter(({ row }) => place.has(row.at));
    const rest = rows.filter(({ row }) => !place.has(row.at)).slice(0, 40);
    const traces = [...rest, ...drawn].map(({ row, from, to }) => {
      const own = place.get(row.at);
      const colour = own === undefined ? charts.style("--line") : charts.colour(own);
      return { type: "scatter", mode: "lines+markers", x: ends, y: [from, to], name: charts.lines(row.label), showlegend: own !== undefined,
        line: { color: colour, width: own === undefined ? 1.5 : 3, dash: own === undefined ? "solid" : charts.dash(own) },
        marker: { color: colour, size: own === undefined ? 6 : 11, symbol: board.shapes[row.family] || "star" }, hoverinfo: "text",
        hovertext: [from, to].map((rank, at) => `${charts.plain(row.label)}<br>${ends[at]}: place ${rank}, ${board.names[metric]} ${value(row, at ? other : one)}`) };
    });
    const moved = rows.filter(({ from, to }) => from !== to).sort((a, b) => Math.abs(b.to - b.from) - Math.abs(a.to - a.from) || a.from - b.from);
    const last = Math.max(...before, ...after);
    return { traces, heads: ["Row", `Place, ${ends[0]}`, `Place, ${ends[1]}`, "Change", `${board.names[metric]}, ${ends[0]}`, `${board.names[metric]}, ${ends[1]}`],
      rows: moved.length ? moved.map(({ row, from, to }) => [row.label, from, to, from > to ? `up ${from - to}` : `down ${to - from}`, value(row, one), value(row, other)])
        : [["no row changes its place", "", "", "", "", ""]],
      layout: charts.layout({ height: (charts.narrow() ? 330 : 300) + Math.min(300, 14 * last),
        xaxis: charts.axis({ type: "category", range: [-0.15, 1.15], showgrid: false }),
        yaxis: charts.axis({ title: `place by ${board.names[metric]}`, range: [last + 0.6, 0.4], zeroline: false, tickformat: "d", ...(last < 12 ? { dtick: 1 } : {}) }) }),
      summary: `${moved.length} of ${rows.length} rows have another place by ${board.names[metric]} with ${ends[1]} than with ${ends[0]}. They are in the table below the plot.` };
  }

  return { add, places };
})();
