"use strict";
// All runs: search, sort, choose some to compare.
(() => {
  const table = document.getElementById("board");
  const search = document.getElementById("f-text");
  const link = document.getElementById("compare");
  const filter = () => cmr.filter(table, (row) => cmr.matches(row.textContent, search.value), document.getElementById("count"), "runs");

  table.addEventListener("change", () => {
    const slugs = [...table.querySelectorAll(".pick input:checked")].map((box) => box.closest("tr").dataset.slug);
    link.href = `compare.html#${new URLSearchParams({ runs: slugs.join(",") })}`;
    link.textContent = slugs.length ? `Compare ${slugs.length} selected` : "Compare selected";
  });
  search.addEventListener("input", filter);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  cmr.sortable(table);
  filter();
})();
