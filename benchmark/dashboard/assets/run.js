"use strict";
// One run: its learning, loss and precision-recall curves.
(() => {
  const run = cmr.data();
  const { charts } = cmr;
  const names = Object.keys(run.history);

  function curve(id, prefix, preferred) {
    const own = names.filter((name) => name.startsWith(prefix) && name !== "val/selection");
    let wanted = preferred.find((name) => own.includes(name)) || own[0];
    const title = (name) => name.replace(/^(val|train)\//, "");
    if (own.length > 1) {
      charts.select(id, "Curve", own.map((name) => [name, title(name)]), wanted, (name) => { wanted = name; charts.redraw(); });
    }
    charts.add(id, () => wanted ? charts.epochs([{ place: 0, name: run.label, label: run.label, history: run.history }], wanted, title(wanted)) : null);
  }

  curve("c-learning", "val/", ["val/rsum", "val/map"]);
  curve("c-loss", "train/", ["train/loss"]);
  charts.add("c-pr", () => charts.precisionRecall([{ ...run, place: 0 }]));
  cmr.breakdown.add(() => [{ ...run, place: 0 }]);
})();
