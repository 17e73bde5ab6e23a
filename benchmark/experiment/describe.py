"""A method as its recipes have it: data sets, variants, how faithful each is and where it deviates."""

from __future__ import annotations

from dataclasses import dataclass

from cmr_bench import registry
from cmr_bench.experiment.fidelity import label_of, unsaid_by_paper
from cmr_bench.experiment.recipe_files import shipped_recipe


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe or one of its variants.

    Attributes:
        data: Short name of the data set.
        variant: Name of the variant, or empty.
        fidelity: paper, code or reconstruction.
        deviations: What differs from the paper or program, a line each.
        source: What the recipe cites.
        program: What the released program does otherwise where the paper does not say, a line each.
    """

    data: str
    variant: str
    fidelity: str
    deviations: list[str]
    source: str
    program: list[str]


def recipes_of(method: str) -> list[RecipeEntry]:
    """Return every shipped recipe of a method, each followed by its variants.

    Raises:
        UsageError: If there is no such method.
    """
    registry.method_entry(method)
    found = []
    for data in registry.DATASETS:
        recipe = shipped_recipe(data, method)
        for variant in ("", *(recipe.get("variants") or {})) if recipe is not None else ():
            fidelity, deviations = label_of(recipe or {}, variant, method, data)
            source = str((recipe or {}).get("source", ""))
            program = unsaid_by_paper(method, variant)
            found.append(RecipeEntry(data, variant, fidelity, deviations, source, program))
    return found
