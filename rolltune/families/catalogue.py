"""The families that there are, and which one a checkpoint is of."""

from rolltune.errors import UserError
from rolltune.families import gemma2, llama, llava_next, mllama, paligemma, phi3_vision
from rolltune.models.family import Family
from rolltune.weights.checkpoint import Checkpoint

FAMILIES = (
    *(paligemma.FAMILY, gemma2.FAMILY, llava_next.FAMILY, phi3_vision.FAMILY, mllama.FAMILY),
    *(llama.FAMILY, llama.MISTRAL),
)


def family_of(checkpoint: Checkpoint) -> Family:
    """By the model_type of its config.json; a npz is of the one family that is published so."""
    if checkpoint.config is None:
        return next(family for family in FAMILIES if family.npz)
    kind = checkpoint.config.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise UserError(f"{checkpoint.path}/config.json: model_type is {kind!r}; this rolltune knows {known}")
