"use strict";
// A table as it is shown, its rows filtered and sorted and its columns chosen, as CSV or LaTeX.
(() => {
  const LATEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "−": "$-$", "–": "--" };
  const latex = (text) => [...text].map((letter) => LATEX[letter] ?? letter).join("");
  const plain = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, " ").replace(/\s+/g, " ").trim();

  // What a spreadsheet would take for a formula gets an apostrophe; numbers stay as they are.
  function csvCell(text) {
    const safe = /^[=+\-@\t\r]/.test(text) && !/^[+-]?\d[\d.]*(e[+-]?\d+)?$/.test(text) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  const columns = (table) => [...table.tHead.rows[0].cells].map((head, at) => [head, at]).filter(([head]) => !head.hidden && !head.classList.contains("pick"));
  const rows = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const headText = (head) => plain([...(head.querySelector("button") || head).childNodes].map((node) => node.textContent).join(" "));

  // Text of a cell without what is only shown on demand.
  function shown(cell) {
    if (cell.dataset.export !== undefined) return cell.dataset.export;
    const copy = cell.cloneNode(true);
    for (const part of copy.querySelectorAll(".sr, .interval, details a, [aria-hidden]")) part.remove();
    return plain(copy.textContent);
  }

  const marks = (cell) => (cell.dataset.marks || "").split(";").filter(Boolean);

  function csv(table) {
    const used = columns(table);
    const some = (at, name) => rows(table).some((row) => row.cells[at].dataset[name] !== undefined);
    const lines = [used.flatMap(([head, at]) => [headText(head), ...(some(at, "sd") ? [`${headText(head)} sd`] : []), ...(some(at, "marks") ? ["flags"] : [])])];
    const kinds = rows(table).some((row) => row.dataset.kind);
    if (kinds) lines[0].push("kind");
    for (const row of rows(table)) {
      lines.push(used.flatMap(([, at]) => {
        const cell = row.cells[at];
        return [plain(cell.dataset.v ?? shown(cell)), ...(some(at, "sd") ? [cell.dataset.sd ?? ""] : []), ...(some(at, "marks") ? [marks(cell).join(";")] : [])];
      }));
      if (kinds) lines[lines.length - 1].push(row.dataset.kind);
    }
    return `${lines.map((line) => line.map(csvCell).join(",")).join("\n")}\n`;
  }

  function tex(table, title) {
    const used = columns(table);
    const cellOf = (row, at) => {
      const cell = row.cells[at];
      if (cell.tagName === "TH") {
        const flags = marks(cell).join(",");
        return latex(plain(cell.dataset.v ?? shown(cell))) + (flags ? `\\textsuperscript{${latex(flags)}}` : "");
      }
      const text = cell.classList.contains("num") || !cell.dataset.v ? shown(cell) : plain(cell.dataset.v);
      const written = latex(text).replace(/ ?\$\\pm\$/, " $\\pm$ ").replace(/^-/, "$-$");
      return cell.querySelector("strong") ? `\\textbf{${written}}` : written;
    };
    return [
      "% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering\\small\\setlength{\\tabcolsep}{4pt}", `\\caption{${latex(plain(title))}.}`,
      `\\begin{tabular}{@{}${used.map(([head]) => (head.classList.contains("num") ? "r" : "l")).join("")}@{}}`, "\\toprule",
      `${used.map(([head]) => latex(headText(head))).join(" & ")} \\\\`, "\\midrule",
      ...rows(table).map((row, at, all) => (at && all[at - 1].dataset.kind !== row.dataset.kind ? "\\midrule\n" : "") + `${used.map(([, column]) => cellOf(row, column)).join(" & ")} \\\\`),
      "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-export]");
    if (!button) return;
    const place = document.getElementById(button.dataset.table);
    const table = place.matches("table") ? place : place.querySelector("table");
    const title = table.dataset.title || document.querySelector("h1").textContent;
    const text = button.dataset.export === "csv" ? csv(table) : tex(table, title);
    cmr.download(text, `${cmr.fileName(title)}.${button.dataset.export}`, button.dataset.export === "csv" ? "text/csv" : "text/x-tex");
  });
})();
