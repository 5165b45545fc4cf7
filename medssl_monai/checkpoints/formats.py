"""The known formats of encoder files: where each keeps the encoder, and what else it holds.

A name in a file is words with dots between them. A format differs from torchvision's by the dictionary that holds the
tensors, by one whole prefix of words, and perhaps by numbers for the stages' names; parts of words are never replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from medssl_monai.checkpoints.manifests import BACKBONE
from medssl_monai.checkpoints.preprocessing import IMAGENET, REFERENCE, REFERENCE_SPARK, UNKNOWN, Preprocessing
from medssl_monai.errors import CheckpointError

# The trained network (MoCo's query, BYOL's online), or its moving average (key, target).
Arm = Literal["query", "online", "key", "target"]
ARMS: dict[str, bool] = {"query": False, "online": False, "key": True, "target": True}

DDP = "module."  # torch's DistributedDataParallel puts it before every name

# torch.nn.Sequential of a torchvision ResNet's children; 2, 3 and 8 (ReLU, max-pool, average pool) have no tensors.
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}

# Two names that an encoder has, by whether its stages are numbered.
_FIRST = {False: ("conv1.weight", "layer1.0.conv1.weight"), True: ("0.weight", "4.0.conv1.weight")}


@dataclass(frozen=True)
class Format:
    """One kind of file: the encoder's tensors are ``content[wrapper][prefix + name]``, without wrapper if None.

    `online` are the prefixes that the trained network may have, `target` those of its moving average; `arms` are the
    two networks' names in the method's words. `marks` are words, of which one must begin some name of the file unless
    the format is asked for by name; `beside` are entries that must lie beside the wrapper. With `numbered` the stages
    bear `SEQUENTIAL`'s numbers.
    """

    name: str
    title: str
    wrappers: tuple[str | None, ...]
    online: tuple[str, ...]
    target: tuple[str, ...] = ()
    arms: tuple[str, str] = ("encoder", "target")
    marks: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    numbered: bool = False
    preprocessing: Preprocessing = UNKNOWN


_LIGHTLY = Format(
    name="lightly",
    title="lightly's Lightning modules",
    wrappers=("state_dict",),
    online=("backbone.",),
    target=("backbone_momentum.", "teacher_backbone.", "key_backbone."),
    arms=("online", "target"),
    marks=("projection_head", "prediction_head", "backbone_momentum", "teacher_backbone", "key_backbone"),
)

# Where ``backbone`` is the moving average, and what is trained is a copy of it (lightly's MoCo v2, and older modules).
_LIGHTLY_COPIED = replace(
    _LIGHTLY,
    online=("query_backbone.", "student_backbone."),
    target=("backbone.",),
    marks=("query_backbone", "student_backbone"),
)

# Tried in this order; the first that fits is taken.
FORMATS: tuple[Format, ...] = (
    Format(
        name="medssl",
        title="a training checkpoint of this package, or a method's weights",
        wrappers=("method", None, "model"),
        online=("encoder.",),
        target=("key_encoder.", "target_encoder."),
        arms=("encoder", "target"),
    ),
    Format(
        name="spark-training",
        title="SparK 'still pretraining'",
        wrappers=("module",),
        online=("sparse_encoder.sp_cnn.",),
        preprocessing=REFERENCE_SPARK,
    ),
    Format(
        name="spark",
        title="SparK's encoder",
        wrappers=("module",),
        online=("",),
        preprocessing=REFERENCE_SPARK,
    ),
    Format(
        name="byol",
        title="BYOL of Wolf et al. 2023 (Lightning)",
        wrappers=("state_dict",),
        online=("online_network.encoder.",),
        target=("target_network.encoder.",),
        arms=("online", "target"),
        preprocessing=REFERENCE,
    ),
    Format(
        name="moco-official",
        title="MoCo v1, v2, v3 of its authors",
        wrappers=("state_dict",),
        online=("encoder_q.", "base_encoder."),
        target=("encoder_k.", "momentum_encoder."),
        arms=("query", "key"),
        beside=("arch",),
        preprocessing=IMAGENET,
    ),
    Format(
        name="moco",
        title="MoCo of Wolf et al. 2023 (Lightning)",
        wrappers=("state_dict",),
        online=("encoder_q.",),
        target=("encoder_k.",),
        arms=("query", "key"),
        preprocessing=REFERENCE,
    ),
    Format(
        name="swav",
        title="SwAV of Wolf et al. 2023 (Lightning)",
        wrappers=("state_dict",),
        online=("model.",),
        marks=("model.prototypes", "model.projection_head"),
        preprocessing=REFERENCE,
    ),
    Format(
        name="lightning",
        title="a Lightning module whose ResNet is its model",
        wrappers=("state_dict",),
        online=("model.",),
    ),
    Format(
        name="swav-official",
        title="SwAV of its authors",
        wrappers=(None, "state_dict"),
        online=("",),
        marks=("prototypes", "projection_head"),
        preprocessing=IMAGENET,
    ),
    _LIGHTLY_COPIED,
    replace(_LIGHTLY_COPIED, numbered=True),
    _LIGHTLY,
    replace(_LIGHTLY, numbered=True),
    Format(
        name="reference-classifier",
        title="the classifier of Wolf et al. 2023 (Lightning)",
        wrappers=("state_dict",),
        online=("backbone.",),
        numbered=True,
    ),
    Format(
        name="solo-learn",
        title="solo-learn",
        wrappers=("state_dict",),
        online=("backbone.", "encoder."),
        target=("momentum_backbone.", "momentum_encoder."),
        arms=("online", "target"),
    ),
    Format(
        name="torchvision",
        title="a state dict of torchvision or timm, or an export of this package",
        wrappers=(None, "model"),
        online=("",),
    ),
    Format(
        name="timm",
        title="a training checkpoint of timm",
        wrappers=("state_dict", None),
        online=("",),
        preprocessing=IMAGENET,
    ),
    Format(
        name="numbered",
        title="torch.nn.Sequential of a ResNet's children, as RadImageNet's",
        wrappers=(None, "state_dict", "model"),
        online=("backbone.", ""),
        marks=("4.0.conv1", "backbone.4.0.conv1"),
        numbered=True,
    ),
)

# What a tensor outside the encoder is, by a word of its name; the first known word decides.
_WORDS: dict[str, tuple[str, ...]] = {
    "target network": (
        *(
            "encoder_k",
            "key_encoder",
            "key_head",
            "key_projector",
            "target_network",
            "target_encoder",
            "target_projector",
        ),
        *("target_predictor", "momentum_encoder", "momentum_backbone", "momentum_projector", "momentum_classifier"),
        *("backbone_momentum", "projection_head_momentum", "teacher_backbone", "teacher_projection_head"),
        *("teacher_head", "key_backbone", "key_projection_head"),
    ),
    "queue": ("queue", "queue_ptr", "val_queue", "val_queue_ptr", "queue_y", "queue_index", "queue_pointer"),
    "projector": ("projection_head", "query_projection_head", "student_projection_head", "projector", "head"),
    "predictor": ("prediction_head", "predictor"),
    "prototypes": ("prototypes",),
    "classifier": ("classifier", "online_classifier"),
    "decoder": ("dense_decoder", "decoder", "densify", "densify_norms", "densify_projs", "mask_tokens"),
    "normalisation constants": ("imn_m", "imn_s", "norm_black"),
}
_REASONS = {word: reason for reason, words in _WORDS.items() for word in words}
_ONLINE_WORDS = frozenset({"online_network", "projector", "projection_head", "query_projection_head"})


@dataclass(frozen=True)
class Encoder:
    """Where the wanted encoder was found: `tensors` with their names in the file, the prefix before torchvision's."""

    form: Format
    arm: str
    prefix: str
    tensors: Mapping[str, Any]
    beside: tuple[str, ...]

    def torchvision_name(self, name: str) -> str | None:
        """The tensor's name in torchvision's ResNet; None where it is no part of the encoder."""
        if not name.startswith(self.prefix):
            return None
        first, dot, rest = name.removeprefix(self.prefix).partition(".")
        first = SEQUENTIAL.get(first, "") if self.form.numbered else first
        return f"{first}{dot}{rest}" if first in BACKBONE else None


def find_encoder(content: Mapping[str, Any], source: str, form: str | None = None, arm: Arm | None = None) -> Encoder:
    """Recognise a file's format from its names, or check it against `form`.

    Args:
        content: of the file.
        source: the file's name, for messages.
        form: a name of `FORMATS`, or ``prefix:WORDS.`` for torchvision's or numbered names behind these words.
        arm: the network to take where there are two; None or ``query`` or ``online`` is the trained one.

    Raises:
        CheckpointError: no format fits, `form` does not exist or fit, or the format has no such arm.
    """
    for candidate in _candidates(form, content):
        for wrapper in candidate.wrappers:
            tensors = content if wrapper is None else content.get(wrapper)
            if not isinstance(tensors, Mapping) or any(entry not in content for entry in candidate.beside):
                continue
            ddp = _ddp(tensors)
            inner = {name.removeprefix(ddp): value for name, value in tensors.items() if isinstance(name, str)}
            if (form is None and not _marked(candidate, inner)) or _prefix(candidate, candidate.online, inner) is None:
                continue
            target = ARMS[arm or "online"]
            prefix = _prefix(candidate, candidate.target if target else candidate.online, inner)
            if prefix is None:
                raise CheckpointError(
                    f"{source}: read as {candidate.name}, which holds no {arm} network; take --arm online"
                )
            beside = () if wrapper is None else tuple(str(name) for name in content if name != wrapper)
            return Encoder(candidate, candidate.arms[target], ddp + prefix, tensors, beside)
    raise CheckpointError(_nothing_found(content, source, form))


def reason_for(name: str, value: object, encoder: Encoder) -> str:
    """What a tensor is that is no part of the encoder: "projector", "queue", "target network" …"""
    if not isinstance(value, Tensor):
        return "not a tensor"
    name, prefix, form = name.removeprefix(DDP), encoder.prefix.removeprefix(DDP), encoder.form
    words = name.split(".")
    if name.startswith(f"{prefix}fc.") and form.arms[0] == "query":
        return "projector"  # MoCo's heads are the encoders' own fc
    if prefix in form.target and (words[0] in _ONLINE_WORDS or name.startswith(form.online)):
        return "online network"
    if prefix in form.online and name.startswith(form.target):
        return "target network"
    if words[0] == prefix.split(".")[0] and len(words) > 1:
        words = words[1:]
    if words[0] == "fc":
        return "classifier"
    return next((_REASONS[word] for word in words if word in _REASONS), "other")


def _candidates(form: str | None, content: Mapping[str, Any]) -> tuple[Format, ...]:
    if form is None:
        return FORMATS
    if form.startswith("prefix:"):
        title, prefix = "torchvision's names behind a prefix", form.removeprefix("prefix:")
        others = (name for name, value in content.items() if isinstance(value, Mapping))
        wrappers = dict.fromkeys((None, "state_dict", "model", "module", *others))
        named = Format(form, title, tuple(wrappers), (prefix, prefix.removeprefix(DDP)))
        return (named, replace(named, numbered=True))
    chosen = tuple(each for each in FORMATS if each.name == form)
    if not chosen:
        known = ", ".join(dict.fromkeys(each.name for each in FORMATS))
        raise CheckpointError(
            f"--from {form}: a format is one of {known}, or prefix: and the words before conv1.weight; leave it out to "
            f"have the file recognised"
        )
    return chosen


def _ddp(tensors: Mapping[Any, Any]) -> str:
    names = [name for name, value in tensors.items() if isinstance(value, Tensor)]
    return DDP if names and all(isinstance(name, str) and name.startswith(DDP) for name in names) else ""


def _marked(form: Format, names: Mapping[str, Any]) -> bool:
    return not form.marks or any(name.startswith(tuple(f"{mark}." for mark in form.marks)) for name in names)


def _prefix(form: Format, prefixes: tuple[str, ...], names: Mapping[str, Any]) -> str | None:
    return next((prefix for prefix in prefixes if prefix + _FIRST[form.numbered][0] in names), None)


def _nothing_found(content: Mapping[str, Any], source: str, form: str | None) -> str:
    """One sentence that names what is there, and the prefix that would fit, if any."""
    wanted = f"the format {form}" if form else f"any known format ({', '.join(dict.fromkeys(f.name for f in FORMATS))})"
    places = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    names = [str(name) for place in places for name, value in place.items() if isinstance(value, Tensor)]
    known = set(names)
    for name in names:
        for first, second in _FIRST.values():
            prefix = name.removesuffix(first)
            if prefix + first == name and prefix + second in known and (not prefix or prefix.endswith(".")):
                return f"{source}: no encoder in {wanted}, found {name}; if that is it, give --from prefix:{prefix}"
    shown = ", ".join(str(name) for name in list(content)[:3])
    return f"{source}: no encoder in {wanted}, found {len(content)} entries ({shown}); give a ResNet's state_dict()"
