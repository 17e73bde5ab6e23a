"use strict";
// What each method answered to the same queries, the hardest first.
(() => {
  const { element } = cmr;
  const split = document.getElementById("q-split");
  const way = document.getElementById("q-way");
  const only = document.getElementById("q-only");
  const list = document.getElementById("q-runs");
  const asked = cmr.state();
  let content = null;
  let chosen = [];
  let turn = 0;

  const name = (run) => run.label;
  const label = (run) => `${name(run)}${run.seed === null ? "" : `, seed ${run.seed}`}`;

  // One run of each method and variant, the best of it, at most five.
  function representatives() {
    const best = new Map();
    for (const run of content.runs) {
      const other = best.get(name(run));
      if (!other || run.score > other.score) best.set(name(run), run);
    }
    return [...best.values()].sort((a, b) => b.score - a.score).slice(0, 5).map((run) => run.slug);
  }

  function listRuns() {
    const sorted = [...content.runs].sort((a, b) => b.score - a.score);
    list.replaceChildren(element("legend", { class: "sr", text: "Methods" }), ...sorted.map((run) => {
      const box = element("input", { type: "checkbox", value: run.slug });
      box.checked = chosen.includes(run.slug);
      box.addEventListener("change", () => {
        chosen = box.checked ? [...chosen, run.slug] : chosen.filter((slug) => slug !== run.slug);
        show();
      });
      return element("label", {}, box, element("span", {}, `${label(run)} `, element("small", { text: run.run_id })));
    }));
  }

  // The rank of the match; without one, its place among the answers, or one behind them.
  function rankOf(entry) {
    if (entry[1] !== null && entry[1] !== undefined) return entry[1];
    const place = entry[2].findIndex((answer) => answer[2]);
    return place < 0 ? entry[2].length + 1 : place + 1;
  }

  function rankText(entry) {
    if (entry[1] !== null && entry[1] !== undefined) return `rank ${entry[1].toLocaleString("en")}`;
    const rank = rankOf(entry);
    return rank > entry[2].length ? `not in the first ${entry[2].length}` : `rank ${rank}`;
  }

  function picture(number, big) {
    const [id, address] = content.images[number];
    if (!address) return element("span", { class: "blank", text: id, role: "img", "aria-label": `image ${id}, no photo stored` });
    return element("img", { src: `thumbnails/${address}`, alt: `photo ${id}`, loading: "lazy", title: big ? id : null });
  }

  const KINDS = { match: ["✓", "the match"], related: ["≈", "the same category"], wrong: ["✗", "wrong"] };
  const kind = (answer) => (answer[2] ? "match" : answer[3] ? "related" : "wrong");
  const sign = (answer) => element("span", { class: `sign ${kind(answer)}`, title: KINDS[kind(answer)][1] },
    element("span", { "aria-hidden": "true", text: KINDS[kind(answer)][0] }), element("span", { class: "sr", text: `${KINDS[kind(answer)][1]}: ` }));

  function answersOf(entry, direction) {
    if (direction === "t2i") {
      return element("ol", { class: "answers" }, ...entry[2].map((answer) =>
        element("li", { class: `tile ${kind(answer)}` }, sign(answer), element("div", { class: "frame" }, picture(answer[0])))));
    }
    return element("ol", { class: "answers texts" }, ...entry[2].map((answer) =>
      element("li", { class: kind(answer) }, sign(answer), element("span", { class: "clamp", text: content.texts[answer[0]] }))));
  }

  function card(query, direction) {
    const asked = direction === "t2i"
      ? [element("h2", {}, element("q", { class: "clamp", text: content.texts[query.number] }))]
      : [element("h2", { class: "sr", text: `Image ${content.images[query.number][0]}` }), picture(query.number, true)];
    if (query.match !== null) {
      asked.push(element("p", { class: "quiet own" }, direction === "t2i" ? "Its image" : "Its first caption"),
        direction === "t2i" ? picture(query.match, true) : element("p", { class: "clamp", text: content.texts[query.match] }));
    }
    return element("article", { class: "query" }, element("div", { class: "asked" }, ...asked),
      element("div", {}, ...query.entries.map(([run, entry]) => element("div", { class: "method" },
        element("h3", {}, label(run), element("small", { text: rankText(entry) })), answersOf(entry, direction)))));
  }

  async function show() {
    const own = ++turn;
    cmr.keep({ split: split.value, way: way.value, runs: chosen.join(",") });
    const loaded = await Promise.all(chosen.map(async (slug) => [content.runs.find((run) => run.slug === slug), (await cmr.load(slug)).answers]));
    if (own !== turn) return;
    const direction = way.value;
    const queries = [];
    for (const [number, match] of content.queries[direction]) {
      const entries = loaded.map(([run, answers]) => [run, answers[direction].find((entry) => entry[0] === number)]).filter(([, entry]) => entry);
      if (!entries.length) continue;
      const ranks = entries.map(([, entry]) => rankOf(entry));
      const right = ranks.filter((rank) => rank === 1).length;
      const group = right === 0 ? "wrong" : right === ranks.length ? "right" : "split";
      queries.push({ number, match, entries, group, hardness: ranks.reduce((all, rank) => all + Math.log(rank), 0) / ranks.length });
    }
    queries.sort((a, b) => b.hardness - a.hardness);
    const shown = queries.filter((query) => !only.value || query.group === only.value);
    document.getElementById("queries").replaceChildren(...shown.map((query) => card(query, direction)));
    document.getElementById("q-chosen").textContent = `(${chosen.length} of ${content.runs.length} runs)`;
    const counts = ["wrong", "split", "right"].map((group) => queries.filter((query) => query.group === group).length);
    document.getElementById("count").textContent = chosen.length
      ? `${shown.length} of ${queries.length} queries. At rank 1: every method wrong in ${counts[0]}, methods disagree in ${counts[1]}, every method right in ${counts[2]}.`
      : "Choose a method.";
  }

  async function open() {
    if (!split.value) return;
    content = await cmr.load(`split-${split.value}`);
    const known = new Set(content.runs.map((run) => run.slug));
    const wanted = (asked.get("runs") || "").split(",").filter((slug) => known.has(slug));
    asked.delete("runs");
    const others = representatives().filter((slug) => !wanted.includes(slug));
    chosen = wanted.length > 1 ? wanted : [...wanted, ...others].slice(0, 5);
    listRuns();
    await show();
  }

  split.form.addEventListener("submit", (event) => event.preventDefault());
  if ([...split.options].some((option) => option.value === asked.get("split"))) split.value = asked.get("split");
  if (asked.get("way") === "i2t") way.value = "i2t";
  split.addEventListener("change", open);
  way.addEventListener("change", show);
  only.addEventListener("change", show);
  open();
})();
