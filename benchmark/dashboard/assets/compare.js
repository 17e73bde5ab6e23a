"use strict";
// Two or more runs side by side, and what the paired bootstrap says of their differences.
(() => {
  const { runs, chosen: best } = cmr.data();
  const bySlug = new Map(runs.map((run) => [run.slug, run]));
  const list = document.getElementById("list");
  const search = document.getElementById("f-text");
  const reference = document.getElementById("reference");
  const { charts } = cmr;
  const asked = cmr.state();
  let wantedReference = asked.get("reference");
  const named = (state) => (state.get("runs") || "").split(",").filter(Boolean);
  // Without runs in its address the page begins with the best two; an address that names none stays empty.
  let chosen = asked.has("runs") ? named(asked).filter((slug) => bySlug.has(slug)) : best;
  let drawn = [];

  const label = (run) => [run.label, ...run.marks.map((mark) => `[${mark}]`)].join(" ");
  const unique = (run) => runs.filter((one) => one.label === run.label && one.data === run.data).length > 1 ? `${run.label} (${run.run_id})` : run.label;

  for (const run of runs) {
    const box = cmr.element("input", { type: "checkbox", value: run.slug });
    box.addEventListener("change", () => {
      chosen = box.checked ? [...chosen, run.slug] : chosen.filter((slug) => slug !== run.slug);
      show();
    });
    const figures = Object.entries(run.figures).map(([name, text]) => `${{ mr: "mR", map: "mAP" }[name] || name} ${text}`).join(", ");
    list.append(cmr.element("label", { "data-slug": run.slug }, box,
      cmr.element("span", {}, `${run.data}: ${label(run)} `, cmr.element("small", { text: `${figures} · ${run.run_id}` }))));
  }

  function filter() {
    let shown = 0;
    for (const line of list.querySelectorAll("label")) {
      line.hidden = !cmr.matches(line.textContent, search.value);
      shown += !line.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${runs.length} runs, ${chosen.length} selected`;
  }

  // Draws of a metric; rsum and mAP of both directions follow from their parts.
  function draws(run, name) {
    const sum = (names, factor) => {
      const parts = names.map((part) => draws(run, part));
      if (parts.some((part) => !part)) return null;
      return { mean: parts.reduce((all, part) => all + part.mean, 0) * factor, scale: parts.reduce((all, part) => all + part.scale, 0) * factor, values: parts[0].values.map((_, at) => parts.reduce((all, part) => all + part.values[at], 0) * factor) };
    };
    if (name === "rsum") return sum(["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"], 1);
    if (name === "map") return sum(["i2t_map", "t2i_map"], 0.5);
    const packed = run.draws[name];
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed.draws), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return { mean: packed.mean, scale: packed.scale, values: Array.from({ length: bytes.length / 2 }, (_, at) => packed.mean + packed.scale * view.getInt16(2 * at, true)) };
  }

  function quantile(sorted, share) {
    const at = share * (sorted.length - 1);
    const low = Math.floor(at);
    return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  }

  function paired(one, other) {
    const difference = one.mean - other.mean;
    const values = one.values.map((value, at) => value - other.values[at]).sort((a, b) => a - b);
    // Draws are rounded to their scale: what is smaller than that is no difference.
    const tiny = one.scale + other.scale;
    const fewest = Math.min(values.filter((value) => value <= tiny).length, values.filter((value) => value >= -tiny).length);
    return { difference, low: quantile(values, 0.025), high: quantile(values, 0.975), p: Math.min(1, (2 * (fewest + 1)) / (values.length + 1)) };
  }

  const digits = (name, value) => (/map|precision|ndcg/.test(name) ? value.toFixed(3) : value.toFixed(1));
  const signed = (name, value) => `${value < 0 ? "−" : "+"}${digits(name, Math.abs(value))}`;
  const NAMES = { rsum: "rsum", map: "mAP", i2t_r1: "i2t R@1", i2t_r5: "i2t R@5", i2t_r10: "i2t R@10", t2i_r1: "t2i R@1", t2i_r5: "t2i R@5", t2i_r10: "t2i R@10", i2t_map: "i2t mAP", t2i_map: "t2i mAP" };

  function verdicts() {
    const section = document.getElementById("verdicts");
    const base = drawn.find((one) => one.run.slug === reference.value) || drawn[0];
    const others = drawn.filter((one) => one !== base);
    section.hidden = drawn.length < 2;
    if (section.hidden) return [];
    const rows = [];
    const found = [];
    for (const other of others) {
      const why = reason(other, base);
      if (why) {
        rows.push([unique(other.run), "", "", "", "", cmr.element("span", { class: "quiet", text: why })]);
        continue;
      }
      for (const name of Object.keys(NAMES)) {
        const [one, two] = [draws(other.data, name), draws(base.data, name)];
        if (!one || !two) continue;
        const found_ = { ...paired(one, two), name, other };
        const verdict = found_.low > 0 ? "better" : found_.high < 0 ? "worse" : "no difference shown";
        found.push(found_);
        rows.push([unique(other.run), NAMES[name], signed(name, found_.difference), `${signed(name, found_.low)} to ${signed(name, found_.high)}`,
          found_.p < 0.01 ? found_.p.toFixed(3) : found_.p.toFixed(2), cmr.element("span", { class: `verdict ${verdict === "better" || verdict === "worse" ? verdict : "quiet"}`, text: verdict })]);
      }
    }
    document.getElementById("verdict-table").replaceChildren(cmr.table(["Run", "Metric", "Difference", "95% interval", "p", "Verdict"], rows,
      { caption: `Difference from ${unique(base.run)}` }));
    return found;
  }

  function reason(one, other) {
    if (one.run.group !== other.run.group) return "not compared: another test split, protocol or definition";
    const without = [one, other].find((each) => !each.run.paired);
    return without ? `not compared: ${unique(without.run)} has not stored its per-query outcomes` : "";
  }

  function chart() {
    const found = verdicts().filter((one) => one.name !== "rsum");
    if (!found.length) return null;
    const recalls = found.filter((one) => !/map/.test(one.name));
    const kept = recalls.length ? recalls : found;
    const others = [...new Set(kept.map((one) => one.other))];
    return {
      traces: others.map((other) => {
        const own = kept.filter((one) => one.other === other);
        return { type: "scatter", mode: "markers", name: charts.lines(unique(other.run)), x: own.map((one) => one.difference), y: own.map((one) => NAMES[one.name]),
          marker: { size: 10, color: charts.colour(drawn.indexOf(other)) }, hoverinfo: "text", hovertext: own.map((one) => `${charts.plain(unique(other.run))}<br>${NAMES[one.name]}: ${signed(one.name, one.difference)}`),
          error_x: { type: "data", symmetric: false, array: own.map((one) => one.high - one.difference), arrayminus: own.map((one) => one.difference - one.low), thickness: 2, width: 4 } };
      }),
      heads: ["Run", "Metric", "Difference", "Low", "High", "p"], rows: kept.map((one) => [unique(one.other.run), NAMES[one.name], one.difference, one.low, one.high, one.p]),
      layout: charts.layout({ scattermode: "group", xaxis: charts.axis({ title: recalls.length ? "difference, percentage points" : "difference, mAP", zeroline: true, zerolinecolor: charts.style("--quiet"), zerolinewidth: 2 }),
        yaxis: charts.axis({ autorange: "reversed" }), height: 160 + 40 * kept.length }),
      summary: `Differences with their intervals for ${others.length} runs. The data are in the table below the plot.`,
    };
  }

  function swatch(at) {
    const made = cmr.element("span", { class: "swatch", "aria-hidden": "true" });
    made.style.setProperty("--row", charts.colour(at));
    return made;
  }

  function beside() {
    const section = document.getElementById("beside");
    section.hidden = !drawn.length;
    if (section.hidden) return;
    const heads = drawn.map((one, at) => cmr.element("span", {}, swatch(at), unique(one.run)));
    const again = () => heads.map((head) => head.cloneNode(true));
    const comparable = drawn.every((one) => one.run.group === drawn[0].run.group);
    const names = [...new Set(drawn.flatMap((one) => Object.keys(one.data.metrics)))];
    const rows = names.map((name) => {
      const values = drawn.map((one) => one.data.metrics[name]);
      const there = values.filter((value, at) => value !== undefined && drawn[at].run.ranked);
      const lower = drawn.some((one) => one.data.lower.includes(name));
      const best = comparable && there.length > 1 ? (lower ? Math.min : Math.max)(...there) : null;
      const title = drawn.map((one) => one.data.names[name]).find(Boolean);
      return [title, ...drawn.map((one, at) => {
        if (values[at] === undefined) return "";
        const interval = one.data.intervals[name];
        const text = digits(name, values[at]);
        return cmr.element("span", {}, drawn[at].run.ranked && values[at] === best ? cmr.element("strong", { text }) : text,
          interval ? cmr.element("small", { text: ` ${digits(name, interval[0])}–${digits(name, interval[1])}` }) : null);
      })];
    });
    for (const [name, title] of [["train", "training"], ["query", "per query"], ["parameters", "parameters"]]) {
      if (drawn.some((one) => one.data.costs[name])) rows.push([title, ...drawn.map((one) => one.data.costs[name] || "")]);
    }
    document.getElementById("metric-table").replaceChildren(cmr.table(["Metric", ...again()], rows,
      { numbers: true, caption: comparable ? "Best in bold, 95% interval beside." : "These runs are not comparable: test split, protocol or definitions differ. No best is marked." }));
    const facts = [...new Set(drawn.flatMap((one) => Object.keys(one.data.facts)))]
      .filter((name) => new Set(drawn.map((one) => one.data.facts[name] || "")).size > 1)
      .map((name) => [name, ...drawn.map((one) => one.data.facts[name] || "–")]);
    document.getElementById("fact-table").replaceChildren(cmr.table(["Setting", ...again()], facts,
      { caption: drawn.length < 2 ? "Choose a second run." : "– stands for the default, or not recorded." }));
  }

  function remember() {
    const base = reference.value && reference.value !== chosen[0] ? { reference: reference.value } : {};
    cmr.keep({ runs: chosen.join(","), ...base });
    document.getElementById("shared").textContent = "";
  }

  let turn = 0;
  async function show() {
    const own = ++turn;
    filter();
    const group = chosen.length ? bySlug.get(chosen[0]).group : null;
    for (const line of list.querySelectorAll("label")) {
      line.querySelector("input").checked = chosen.includes(line.dataset.slug);
      line.toggleAttribute("data-other", group !== null && bySlug.get(line.dataset.slug).group !== group);
    }
    const loaded = await Promise.all(chosen.map(async (slug) => ({ run: bySlug.get(slug), data: await cmr.load(slug) })));
    if (own !== turn) return;
    drawn = loaded;
    const before = wantedReference || reference.value;
    wantedReference = null;
    reference.replaceChildren(...drawn.map((one) => cmr.element("option", { value: one.run.slug, text: unique(one.run), selected: one.run.slug === before })));
    remember();
    beside();
    await charts.redraw();
    document.getElementById("result").textContent = drawn.length < 2 ? "Choose two runs or more." : `${drawn.length} runs side by side.`;
  }

  search.addEventListener("input", filter);
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  reference.addEventListener("change", () => {
    remember();
    charts.redraw();
  });
  document.getElementById("share").addEventListener("click", async () => {
    const told = document.getElementById("shared");
    try {
      await navigator.clipboard.writeText(location.href);
      told.textContent = "Copied.";
    } catch {
      told.textContent = "The address in the browser's address bar names these runs.";
    }
  });
  addEventListener("hashchange", () => {
    chosen = named(cmr.state()).filter((slug) => bySlug.has(slug));
    wantedReference = cmr.state().get("reference");
    show();
  });
  const why = document.getElementById("why");
  const unknown = named(asked).length - (asked.has("runs") ? chosen.length : 0);
  if (!asked.has("runs") && best.length) why.textContent = "The best two rows of the largest leaderboard; select others below.";
  else if (unknown > 0) why.textContent = `${unknown} of the runs in the address ${unknown > 1 ? "are" : "is"} not on this site.`;
  why.hidden = !why.textContent;
  document.getElementById("chooser").open = chosen.length < 2;
  charts.add("c-verdicts", chart);
  show();
})();
