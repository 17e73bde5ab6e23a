"use strict";
// Charts by Plotly, each with the figures behind it as a table; drawn when they come into view.
cmr.charts = (() => {
  const COLOURS = ["#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5", "#9498a0"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const makers = new Map();
  const visible = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Plotly reads some tags in texts as format.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  // A name in a legend keeps every word, as what it ends with may be all that sets it apart: it takes more lines.
  function lines(text, most = 34) {
    const found = [""];
    for (const word of String(text).split(" ")) {
      const last = found[found.length - 1];
      if (last && last.length + 1 + word.length > most) found.push(word);
      else found[found.length - 1] = last ? `${last} ${word}` : word;
    }
    return found.map(plain).join("<br>");
  }
  const narrow = () => innerWidth < 700;

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function colour(place) {
    return COLOURS[place % COLOURS.length];
  }

  function dash(place) {
    return DASHES[Math.floor(place / COLOURS.length) % DASHES.length];
  }

  function axis(extra = {}) {
    return { gridcolor: style("--line"), linecolor: style("--line"), zerolinecolor: style("--line"), automargin: true,
      ...extra, title: { text: extra.title || "", font: { size: 12 }, standoff: 8 } };
  }

  function layout(extra) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: narrow() ? 420 : 380,
      font: { family: style("--font") || "sans-serif", size: 12, color: style("--ink") },
      margin: { l: 52, r: 12, t: 28, b: 40 }, hovermode: "closest", bargap: 0.22, colorway: COLOURS,
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") } },
      dragmode: narrow() ? false : "zoom",
      legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0, font: { size: 11 } },
      ...extra,
    };
  }

  // Two panels beside each other, or one above the other on a phone.
  function panels(left, right, x, y, rightX = x) {
    const stacked = narrow();
    const heading = (text, at) => ({ text: plain(text), showarrow: false, xref: "paper", yref: "paper", xanchor: "left",
      yanchor: "bottom", x: stacked ? 0 : at, y: stacked ? (at ? 0.4 : 1) : 1, font: { size: 12, color: style("--quiet") } });
    return layout({
      height: stacked ? 640 : 390,
      xaxis: axis({ ...x, domain: stacked ? [0, 1] : [0, 0.46], anchor: "y" }),
      yaxis: axis({ ...y, domain: stacked ? [0.6, 1] : [0, 1], anchor: "x" }),
      xaxis2: axis({ ...rightX, domain: stacked ? [0, 1] : [0.54, 1], anchor: "y2" }),
      // The panels share their scale, so that a title between them would say the same again.
      yaxis2: axis({ ...y, title: stacked ? y.title : "", matches: "y", domain: stacked ? [0, 0.39] : [0, 1], anchor: "x2" }),
      annotations: [heading(left, 0), heading(right, stacked ? 1 : 0.54)],
    });
  }

  async function render(id) {
    const figure = document.getElementById(id);
    const made = await makers.get(id)();
    figure.hidden = !made;
    if (!made) return;
    const plot = figure.querySelector(".plot");
    plot.setAttribute("aria-label", made.summary);
    figure.querySelector(".behind .scroll").replaceChildren(cmr.table(made.heads, made.rows, { class: "figures" }));
    if (!visible.has(id)) return;
    const Plotly = await cmr.plotly();
    // Plotly's own tool bar lies over titles, and its links lie inside what a screen reader takes for a picture.
    await Plotly.react(plot, made.traces, made.layout, { responsive: true, displayModeBar: false });
    figure.dataset.drawn = made.traces.length;
  }

  const running = new Map();
  function draw(id) {
    const next = (running.get(id) || Promise.resolve()).then(() => render(id)).catch((error) => {
      const figure = document.getElementById(id);
      figure.hidden = false;
      figure.querySelector(".plot").textContent = error.message;
    });
    running.set(id, next);
    return next;
  }

  // For paper: colours of the light page whatever the reader's are, on white.
  const ON_PAPER = { "--ink": "#1b1f2a", "--quiet": "#5b6475", "--line": "#dfe3ec", "--card": "#ffffff" };

  async function save(id) {
    const figure = document.getElementById(id);
    const [Plotly, made] = [await cmr.plotly(), await makers.get(id)()];
    if (!made) return;
    const paper = new Map(Object.entries(ON_PAPER).map(([name, light]) => [style(name), light]));
    const { traces, layout: shown } = JSON.parse(JSON.stringify(made), (_, value) => paper.get(value) ?? value);
    const height = Math.max(shown.height, figure.querySelector(".plot").offsetHeight);
    const address = await Plotly.toImage({ data: traces, layout: { ...shown, paper_bgcolor: "#ffffff" } }, { format: "svg", width: narrow() ? 480 : 960, height });
    const text = decodeURIComponent(address.slice(address.indexOf(",") + 1));
    cmr.download(text, `${cmr.fileName(`${document.querySelector("h1").textContent} ${figure.querySelector("h3").textContent}`)}.svg`, "image/svg+xml");
  }

  async function reset(id) {
    const plot = document.querySelector(`#${id} .plot`);
    const axes = Object.keys(plot.layout || {}).filter((name) => /^[xy]axis\d*$/.test(name));
    const made = await makers.get(id)();
    if (!made || !axes.length) return;
    const Plotly = await cmr.plotly();
    await Plotly.relayout(plot, Object.fromEntries(axes.map((name) => made.layout[name]?.range
      ? [`${name}.range`, made.layout[name].range] : [`${name}.autorange`, made.layout[name]?.autorange ?? true])));
  }

  function tools(id) {
    const figure = document.getElementById(id);
    const title = figure.querySelector("h3").textContent;
    figure.querySelector(".tools").replaceChildren(
      cmr.element("button", { type: "button", "aria-label": `Save as SVG: ${title}`, text: "SVG", onclick: () => save(id) }),
      cmr.element("button", { type: "button", "aria-label": `Reset the zoom: ${title}`, text: "Reset zoom", class: "zoom", onclick: () => reset(id) }));
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      visible.add(entry.target.id);
      watcher.unobserve(entry.target);
      draw(entry.target.id);
    }
  }, { rootMargin: "300px" });

  function add(id, make) {
    makers.set(id, make);
    tools(id);
    draw(id).then(() => watcher.observe(document.getElementById(id)));
  }

  function redraw() {
    return Promise.all([...makers.keys()].map(draw));
  }

  function select(id, label, choices, chosen, changed) {
    const box = cmr.element("select", { onchange: (event) => changed(event.target.value) });
    for (const [value, text] of choices) {
      box.append(cmr.element("option", { value, text, selected: value === chosen }));
    }
    document.querySelector(`#${id} .controls`).append(cmr.element("label", {}, label, box));
    return box;
  }

  dark.addEventListener("change", redraw);
  let wasNarrow = narrow();
  addEventListener("resize", () => {
    if (narrow() !== wasNarrow) {
      wasNarrow = narrow();
      redraw();
    }
  });

  // Curves of epochs: one line for each history, histories of one row in one colour.
  function epochs(histories, metric, name) {
    const traces = [];
    const rows = [];
    const seen = new Set();
    for (const line of histories) {
      const y = line.history[metric];
      if (!y) continue;
      const x = (line.history.epoch || y.map((_, place) => place)).map((epoch) => epoch + 1);
      traces.push({ type: "scatter", mode: x.length > 1 ? "lines" : "markers", x, y, name: lines(line.name), legendgroup: String(line.place),
        showlegend: !seen.has(line.place), line: { color: colour(line.place), dash: dash(line.place), width: 2 },
        marker: { color: colour(line.place) }, opacity: seen.has(line.place) ? 0.55 : 1, hoverinfo: "text",
        hovertext: y.map((value, at) => `${plain(line.label)}<br>epoch ${x[at]}: ${value === null ? "none" : value.toPrecision(5)}`) });
      seen.add(line.place);
      y.forEach((value, at) => rows.push([line.label, x[at], value]));
    }
    if (!traces.length) return null;
    return { traces, heads: ["Run", "Epoch", name], rows, summary: `Line chart of ${name} by epoch for ${traces.length} runs. The data are in the table below the plot.`,
      layout: layout({ xaxis: axis({ title: "epoch", tickformat: "d", ...(Math.max(...rows.map((row) => row[1])) < 8 ? { dtick: 1 } : {}) }), yaxis: axis({ title: plain(name) }) }) };
  }

  function precisionRecall(items) {
    const traces = [];
    const rows = [];
    const drawn = items.filter((item) => item.curves && item.curves.recall);
    for (const item of drawn) {
      for (const [number, way] of [["", "i2t"], ["2", "t2i"]]) {
        const y = item.curves[`${way}_precision`];
        traces.push({ type: "scatter", mode: "lines+markers", x: item.curves.recall, y, xaxis: `x${number}`, yaxis: `y${number}`,
          name: lines(item.label), legendgroup: String(item.place), showlegend: !number, marker: { size: 5 },
          line: { color: colour(item.place), dash: dash(item.place), width: 2 }, hoverinfo: "text",
          hovertext: y.map((value, at) => `${plain(item.label)}<br>recall ${item.curves.recall[at].toFixed(1)}: precision ${value.toFixed(3)}`) });
        y.forEach((value, at) => rows.push([item.label, way, item.curves.recall[at].toFixed(1), value]));
      }
    }
    if (!drawn.length) return null;
    return { traces, rows, heads: ["Row", "Direction", "Recall", "Precision"], layout: panels("Image query, texts ranked", "Text query, images ranked",
      { title: "recall", range: [0, 1.02] }, { title: "precision", range: [0, 1.02] }),
    summary: `Precision against recall for both directions, ${drawn.length} rows. The data are in the table below the plot.` };
  }

  return { COLOURS, add, redraw, style, select, plain, lines, colour, dash, axis, layout, panels, narrow, epochs, precisionRecall };
})();
