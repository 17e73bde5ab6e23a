"use strict";
// The heat map: what stands behind a cell, told where it is pointed at or reached by the keyboard.
(() => {
  const told = cmr.data();
  const tip = document.getElementById("tip");
  let shown = null;

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  function show(cell) {
    if (cell === shown) return;
    hide();
    shown = cell;
    const [metric, id] = cell.dataset.tip.split(" ");
    const about = told[metric][Number(id)];
    tip.replaceChildren(cmr.element("strong", { text: about.title }),
      ...about.facts.map((fact) => cmr.element("p", { text: fact })),
      about.deviations.length ? cmr.element("ul", {}, ...about.deviations.map((line) => cmr.element("li", { text: line }))) : "");
    tip.hidden = false;
    cell.setAttribute("aria-describedby", "tip");
    place();
  }

  function place() {
    const around = shown.getBoundingClientRect();
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const left = Math.max(8, Math.min(around.left, document.documentElement.clientWidth - width - 8));
    const below = around.bottom + 6;
    const top = below + height < innerHeight ? below : Math.max(8, around.top - height - 6);
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  }

  for (const name of ["mouseover", "focusin"]) {
    document.addEventListener(name, (event) => {
      const cell = event.target.closest("[data-tip]");
      if (cell) show(cell);
      else if (name === "mouseover" && !event.target.closest("#tip") && document.activeElement !== shown) hide();
    });
  }
  document.addEventListener("focusout", hide);
  // Reaching a cell by the keyboard scrolls to it, and what is told of it goes with it.
  addEventListener("scroll", () => {
    if (shown && shown === document.activeElement) place();
    else hide();
  }, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  for (const table of document.querySelectorAll("table.heat")) cmr.sortable(table);
})();
