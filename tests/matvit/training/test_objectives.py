"""Nested losses against Google's own numbers, and against the same written out with extracted submodels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

import matvit
from matvit import GRANULARITIES, Submodel, SubmodelError, SubmodelSpace, UnknownModelError
from matvit.training.objectives import Distillation, NestedTask, criterion_for
from matvit.training.submodel_sampling import joint
from matvit.weights.scenic.convert import convert

TARGET = torch.tensor([0, 3, 1])
ALL = tuple(GRANULARITIES)
SPACE = SubmodelSpace((64,) * 12)
LOGITS = Distillation("logits", 0.7, temperature=2.0)
SIGMOIDS = Distillation("logits", 0.7, temperature=2.0, sigmoid=True)
EMBEDDING = Distillation("embedding", 0.7)


def always(*submodels):
    return lambda step: submodels


def joint_task(model, *granularities, **options):
    return NestedTask(model, F.cross_entropy, joint(model.space, granularities or ALL), **options)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(found, wanted, rtol=1e-4, atol=1e-5):
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor, wanted[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- the numbers of Google's own code ---


GOLDEN = Path(__file__).parents[1] / "golden"
LEAVES = {
    "Transformer/": "",
    "encoderblock_": "blocks/",
    "output_projection": "head",
    "posembed_input/pos_embedding": "pos_embed",
    "embedding/": "patch_embed/proj/",
    "encoder_norm": "norm",
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "MlpBlock_0/Dense_0": "mlp/fc1",
    "MlpBlock_0/Dense_1": "mlp/fc2",
    "MultiHeadDotProductAttention_0": "attn",
    "attn/out": "attn/proj",
    "kernel": "weight",
    "scale": "weight",
}


def of_flax(tensors, path):
    """The tensor of a leaf by Flax's name, in timm's orientation."""
    for theirs, ours in LEAVES.items():
        path = path.replace(theirs, ours)
    for place, name in enumerate(("query", "key", "value")):
        if f"/{name}/" in path:
            return tensors[path.replace(name, "qkv").replace("/", ".")].chunk(3)[place]
    return tensors["cls_token" if path == "cls" else path.replace("/", ".")]


@pytest.mark.parametrize("as_numbers", [False, True], ids=["one-hot", "class numbers"])
def test_the_joint_sigmoid_loss_and_its_gradients_are_scenics(tmp_path, as_numbers):
    with np.load(GOLDEN / "golden_a.npz") as stored:
        golden = {name: torch.from_numpy(stored[name]) for name in stored.files}
    model = convert(GOLDEN / "checkpoint_2", tmp_path / "checkpoint")
    criterion = criterion_for("sigmoid", label_smoothing=0.0, soft_targets=not as_numbers)
    target = golden["labels"].argmax(-1) if as_numbers else golden["labels"]
    result = NestedTask(model, criterion, joint(model.space, ALL))(golden["inputs_nchw"], target)
    result["loss"].backward()

    torch.testing.assert_close(result["loss"], golden["loss/total"], rtol=1e-5, atol=0)
    for name, width in zip(ALL, (24, 48, 96, 192), strict=True):
        torch.testing.assert_close(result[f"loss/{name}"], golden[f"loss/{width}"], rtol=1e-5, atol=0)
    found = gradients(model)
    leaves = [name.removeprefix("grad_norm/") for name in golden if name.startswith("grad_norm/")]
    assert len(leaves) == 4 * 16 + 8
    for leaf in leaves:
        # Softmax is blind to a shift of all keys: the true gradient of their bias is zero.
        if not leaf.endswith("key/bias"):
            norm = of_flax(found, leaf).norm()
            torch.testing.assert_close(norm, golden[f"grad_norm/{leaf}"], rtol=1e-5, atol=0, msg=leaf)
    whole = [name for name in golden if name.startswith("grad/")]
    assert len(whole) == 3
    for name in whole:
        ours = of_flax(found, name.removeprefix("grad/"))
        torch.testing.assert_close(ours.T if ours.ndim == 2 else ours, golden[name], rtol=1e-5, atol=1e-5)


# --- losses and gradients against extracted submodels ---


def distilled(distill, student, teacher):
    """An oracle in probabilities and unit vectors; each side is an embedding and logits."""
    if distill.kind == "embedding":
        (a, _), (b, _) = student, teacher
        return 1 - ((a / a.norm(dim=1, keepdim=True)) * (b / b.norm(dim=1, keepdim=True))).sum(1).mean()
    z, t = student[1] / distill.temperature, teacher[1] / distill.temperature
    if distill.sigmoid:
        q, p = z.sigmoid(), t.sigmoid()
        loss = -(p * q.log() + (1 - p) * (1 - q).log())
    else:
        q, p = z.softmax(1), t.softmax(1)
        loss = p * (p.log() - q.log())
    return distill.temperature**2 * loss.sum(1).mean()


def encode(extracted, images):
    embedding = extracted.forward_head(extracted.forward_features(images), pre_logits=True)
    return embedding, extracted.head(embedding)


def by_hand(model, images, submodels, distill=None, weight=0.0):
    """Total, losses and gradients of the sum over submodels, each extracted and differentiated by itself."""
    grads = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        teacher = encode(model.extract(model.space.full), images)
    losses, terms, total = [], [], 0.0
    for submodel in submodels:
        extracted = model.extract(submodel)
        student = encode(extracted, images)
        loss = F.cross_entropy(student[1], TARGET)
        losses.append(loss.item())
        if distill and submodel != model.space.full:
            term = distilled(distill, student, teacher)
            terms.append(term.item())
            loss = loss + weight * term
        loss.backward()
        total += loss.item()
        for name, parameter in extracted.named_parameters():
            grads[name][tuple(slice(n) for n in parameter.shape)] += parameter.grad
    return total, losses, terms, grads


@pytest.mark.parametrize("distill", [None, LOGITS, SIGMOIDS, EMBEDDING], ids=str)
@pytest.mark.parametrize("names", [ALL, ("S", "XL"), ("M", "L"), ("XL",), ("S*1+L*3",)], ids="+".join)
def test_loss_and_gradients_are_those_of_the_extracts(make_tiny, images, names, distill):
    model = make_tiny()
    submodels = sorted(map(model.submodel, names), key=lambda submodel: submodel.widths, reverse=True)
    task = NestedTask(model, F.cross_entropy, always(*submodels), distill=distill)
    total, losses, terms, grads = by_hand(model, images, submodels, distill, weight=0.5 * 0.7)
    result = task(images, TARGET, progress=0.5)
    result["loss"].backward()

    assert result["loss"].item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(result["output"], model(images, submodels[0]), rtol=1e-5, atol=1e-5)
    keys = [f"loss/{submodel if str(submodel) in ALL else 'mixed'}" for submodel in submodels]
    recorded = dict(zip(keys, losses, strict=True)) | ({"distill": np.mean(terms)} if terms else {})
    assert result.keys() == {"loss", "output", *recorded}
    for name, value in recorded.items():
        assert result[name].item() == pytest.approx(value, rel=1e-4)
        assert not result[name].requires_grad
    assert_same(gradients(model), grads)


@pytest.mark.parametrize("distill", [None, EMBEDDING])
def test_a_mean_is_the_sum_over_the_number_of_submodels(tiny, images, distill):
    summed, mean = (
        joint_task(tiny, "S", "M", "XL", distill=distill, reduction=how)(images, TARGET)
        for how in ("sum", "mean")
    )
    torch.testing.assert_close(3 * mean["loss"], summed["loss"])
    assert {name: mean[name] for name in mean.keys() - {"loss", "output"}} == {
        name: summed[name] for name in summed.keys() - {"loss", "output"}
    }


def test_the_full_encoder_alone_is_trained_as_any_other(tiny, images):
    result = joint_task(tiny, "XL", distill=EMBEDDING)(images, TARGET)
    assert torch.equal(result["loss"], F.cross_entropy(tiny(images), TARGET))
    assert result.keys() == {"loss", "output", "loss/XL"}


def test_several_mixed_submodels_are_recorded_as_their_mean(tiny, images):
    submodels = [tiny.submodel(text) for text in ("M*1+L*3", "S*1+L*3")]
    result = NestedTask(tiny, F.cross_entropy, always(*submodels))(images, TARGET)
    assert result.keys() == {"loss", "output", "loss/mixed"}
    torch.testing.assert_close(2 * result["loss/mixed"], result["loss"].detach())


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_submodels_that_see_less_learn_from_what_they_see(make_tiny, images, pool):
    model = make_tiny(global_pool=pool)
    target = torch.tensor([0, 1, 2])
    submodels = [
        model.space.full,
        model.submodel("L~2+2+1+0"),
        model.submodel("M@8px"),
        model.submodel("S~1@12px"),
    ]
    task = NestedTask(
        model, F.cross_entropy, always(*submodels), distill=Distillation("embedding", 1.0), ways_of_seeing=4
    )
    found = task(images, target)
    losses, teacher = [], model.forward_embedding(images).detach()
    for submodel in submodels:
        side = submodel.image_size or 16
        x = F.interpolate(images, (side, side), mode="bicubic", antialias=True) if side != 16 else images
        cut = model.cut(submodel)
        losses.append(F.cross_entropy(cut(x), target))
        if submodel != model.space.full:
            embedding = model.forward_embedding(x, submodel)
            torch.testing.assert_close(cut.head(embedding), cut(x))
            losses.append((1 - F.cosine_similarity(embedding, teacher)).mean())
    torch.testing.assert_close(found["loss"], torch.stack(losses).sum())
    assert {"loss/XL", "loss/L", "loss/M", "loss/S"} <= found.keys()
    found["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_granularity_is_known_by_its_widths(tiny, images):
    small = Submodel(tiny.space.smallest.widths)
    assert "loss/S" in NestedTask(tiny, F.cross_entropy, always(small))(images, TARGET)


@pytest.mark.parametrize("kind", ["augreg", "eva02 tiny", "map over registers"])
def test_every_weight_gets_a_gradient_from_any_submodel(make_architecture, kind):
    model = matvit.elastic(make_architecture(kind))
    images = torch.randn(2, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    task = NestedTask(model, F.cross_entropy, always(model.space.smallest), distill=LOGITS)
    task(images, TARGET[:2])["loss"].backward()
    assert all(gradient is not None for gradient in gradients(model).values())


def test_units_that_only_the_teacher_has_get_a_gradient_of_zero(make_tiny, images):
    model = make_tiny()
    joint_task(model, "S", "M", distill=EMBEDDING)(images, TARGET)["loss"].backward()
    gradient = model.blocks[0].mlp.fc1.weight.grad
    assert gradient[:32].abs().min() > 0
    assert not gradient[32:].any()


def test_a_step_of_training_lowers_the_loss(make_tiny, images):
    model = make_tiny()
    task = joint_task(model, distill=EMBEDDING)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        result = task(images, TARGET)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss"].item())
    assert losses == sorted(losses, reverse=True)


# --- the teacher ---


@pytest.fixture
def passes(make_tiny):
    """A model, and for each forward pass whether it was with gradients and in training mode."""
    model, seen = make_tiny(), []
    model.norm.register_forward_hook(
        lambda module, *_: seen.append((torch.is_grad_enabled(), module.training))
    )
    return model, seen


@pytest.mark.parametrize(
    "weight, progress, names, count",
    [(1, 1, "SM", 3), (1, 0, "SM", 2), (0, 1, "SM", 2), (1, 1, ["S", "XL"], 2), (1, 1, ["XL"], 1)],
)
def test_a_teacher_runs_only_where_it_is_needed(passes, images, weight, progress, names, count):
    model, seen = passes
    joint_task(model, *names, distill=Distillation("logits", weight))(images, TARGET, progress=progress)
    assert len(seen) == count


@pytest.mark.parametrize("training", [True, False])
def test_a_teacher_runs_in_the_models_mode_and_without_gradients(passes, images, training):
    model, seen = passes
    model.train(training)
    joint_task(model, "M", distill=LOGITS)(images, TARGET)
    assert sorted(seen) == [(False, training), (True, training)]


def test_distillation_grows_with_progress_and_leaves_the_losses_alone(tiny, images):
    task = joint_task(tiny, distill=EMBEDDING)
    zero, half, one = (task(images, TARGET, progress=p) for p in (0.0, 0.5, 1.0))
    for name in ALL:
        assert len({result[f"loss/{name}"].item() for result in (zero, half, one)}) == 1
    assert one["distill"] == half["distill"]
    assert "distill" not in zero
    expected = 0.7 * 3 * half["distill"].item()
    assert (one["loss"] - zero["loss"]).item() == pytest.approx(expected, rel=1e-3)
    assert (half["loss"] - zero["loss"]).item() == pytest.approx(expected / 2, rel=1e-3)


def test_a_teacher_under_autocast_cuts_no_weight_off(make_tiny, images):
    """In older torch, autocast casts a weight once for all passes, with gradients if the first had any."""
    model = make_tiny()
    task = NestedTask(model, F.cross_entropy, lambda step: (model.space.mixnmatch[-step],), distill=EMBEDDING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        task(images, TARGET, step=4)
        result = task(images, TARGET, step=1)
    assert result["output"].dtype == result["loss"].dtype == torch.float32
    result["loss"].backward()
    assert all(gradient is not None for gradient in gradients(model).values())


# --- losses of a single submodel ---


def test_criteria_are_the_textbooks():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    soft = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
    smoothed = 0.9 * F.one_hot(TARGET, 5) + 0.1 / 5
    log_softmax, log_yes, log_no = logits.log_softmax(-1), F.logsigmoid(logits), F.logsigmoid(-logits)
    cases = [
        ("softmax", TARGET, False, -(smoothed * log_softmax)),
        ("softmax", soft, True, -(soft * log_softmax)),
        ("sigmoid", TARGET, False, -(smoothed * log_yes + (1 - smoothed) * log_no)),
        ("sigmoid", soft, True, -(soft * log_yes + (1 - soft) * log_no)),
    ]
    for loss, target, is_soft, terms in cases:
        criterion = criterion_for(loss, label_smoothing=0.1, soft_targets=is_soft)
        torch.testing.assert_close(criterion(logits, target), terms.sum(-1).mean())


# --- in parts, with recomputed activations, compiled, on several processes ---


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, 1, 16, 16, generator=generator), torch.randint(5, (8,), generator=generator)


@pytest.mark.parametrize("distill", [None, LOGITS, SIGMOIDS, EMBEDDING], ids=str)
def test_parts_of_a_batch_add_up_to_it(make_tiny, batch, distill):
    found, wanted = make_tiny(), make_tiny()
    whole = joint_task(wanted, "S", "M", distill=distill)
    whole(*batch)["loss"].backward()
    task = joint_task(found, "S", "M", distill=distill)
    for images, target in zip(*(tensor.chunk(4) for tensor in batch), strict=True):
        with task.no_sync():
            (task(images, target)["loss"] / 4).backward()
    assert_same(gradients(found), gradients(wanted))


@pytest.mark.parametrize("names", [("S", "XL"), ("M",)], ids="+".join)
def test_recomputed_activations_change_nothing(make_tiny, batch, names):
    models = make_tiny().train(), make_tiny().train()
    models[0].set_grad_checkpointing(True)
    for model in models:
        joint_task(model, *names, distill=LOGITS)(*batch)["loss"].backward()
    assert_same(*map(gradients, models), rtol=1e-6, atol=1e-7)


def test_averages_and_checkpoints_are_of_the_plain_model(make_tiny):
    model = make_tiny(depth=1)
    task = joint_task(model)
    task.compile(backend="eager")
    average = task.setup_ema(decay=0.5)
    with torch.no_grad():
        model.cls_token += 1
    task.update_ema()
    torch.testing.assert_close(average.module.cls_token, model.cls_token - 0.5)
    assert task.get_trainable_module() is model
    assert list(task.get_clip_parameters()) == list(model.parameters())
    assert task.get_checkpoint_state()["state_dict"].keys() == model.state_dict().keys()
    names = {"trainable_module." + name for name in model.state_dict()}
    assert {name for name in task.state_dict() if "ema" not in name} == names


@pytest.fixture
def recompile_limits():
    torch._dynamo.reset()
    config = torch._dynamo.config
    with config.patch(recompile_limit=8, accumulated_recompile_limit=config.accumulated_recompile_limit):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("recompile_limits")
def test_every_submodel_of_the_curve_is_compiled(make_tiny, images):
    model, counter = make_tiny(depth=3), CompileCounterWithBackend("eager")
    curve = model.space.mixnmatch
    assert len(curve) > 8  # Where dynamo gives up.
    task = NestedTask(model, F.cross_entropy, lambda step: (curve[step],), distill=EMBEDDING)
    wanted = [task(images, TARGET, step=step)["loss"].item() for step in range(len(curve))]
    task.compile(backend=counter)
    for _ in range(2):
        found = [task(images, TARGET, step=step)["loss"].item() for step in range(len(curve))]
        assert found == pytest.approx(wanted, rel=1e-5)
        assert counter.frame_count == len(curve) + 1  # The teacher, without gradients.


@pytest.mark.usefixtures("recompile_limits")
def test_what_there_is_no_room_to_compile_never_runs_uncompiled(make_tiny, images):
    model = make_tiny(depth=1)
    task = NestedTask(model, F.cross_entropy, lambda step: (Submodel((1 + step,)),))
    task.compile(backend="eager")
    for step in range(8):
        task(images, TARGET, step=step)
    with pytest.raises(FailOnRecompileLimitHit):
        task(images, TARGET, step=8)


def has_compiler():
    try:
        return bool(cpp_builder.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler, such as g++")
@pytest.mark.usefixtures("recompile_limits")
def test_compiled_losses_and_gradients_are_eagers(make_tiny, images):
    models = make_tiny(depth=1), make_tiny(depth=1)
    tasks = [joint_task(model, "S", "XL", distill=LOGITS) for model in models]
    tasks[0].compile()
    losses = [task(images, TARGET)["loss"] for task in tasks]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    assert_same(*map(gradients, models))


# Trains for a few steps as one of several processes, or here as the only one. Returns the weights, and of a
# bias the last gradient before other processes had a part in it.
TRAIN = """
import matvit, torch
from matvit.training.submodel_sampling import joint, mixnmatch
from matvit.training.objectives import Distillation, NestedTask, criterion_for

def train(model, images, target, *, rank=0, world_size=1, parts=1):
    model.train().set_grad_checkpointing(True)
    criterion = criterion_for("softmax", label_smoothing=0.1, soft_targets=False)
    every = joint(model.space, ["S", "M", "XL"]), mixnmatch(model.space, seed=1)
    choose = lambda step: every[step % 2](step)
    task = NestedTask(model, criterion, choose, distill=Distillation("logits", 2.0))
    if world_size > 1:
        task.prepare_distributed()
    optimizer, own = torch.optim.SGD(model.parameters(), lr=0.05), None

    def backward(step, part):
        mine = slice(rank * parts + part, None, world_size * parts)
        result = task(images[mine], target[mine], step=step, progress=step / 4)
        (result["loss"] / parts).backward()

    for step in range(4):
        optimizer.zero_grad()
        with task.no_sync():
            for part in range(parts - 1):
                backward(step, part)
        if parts > 1:
            own = model.head.bias.grad.clone()
        backward(step, parts - 1)
        optimizer.step()
    return model.state_dict(), own
"""
WORKER = """
import sys
import torch.distributed as dist
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
batch = torch.load(f"{folder}/batch.pt")
done = train(matvit.load(f"{folder}/model"), *batch, rank=rank, world_size=2, parts=2)
torch.save(done, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_train_as_one_does(make_tiny, batch, tmp_path):
    model = make_tiny(depth=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matvit.save(model, tmp_path / "model")
    torch.save(batch, tmp_path / "batch.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN + WORKER, str(rank), str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    scope = {}
    exec(TRAIN, scope)
    wanted, _ = scope["train"](model, *batch)
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    (first, own), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_same(first, second, rtol=0, atol=0)
    assert_same(first, wanted)
    assert all(not torch.allclose(before[name], wanted[name], atol=1e-4) for name in before)
    assert not torch.allclose(own, others)


# --- what is refused ---


@pytest.mark.parametrize(
    "kind, weight, temperature",
    [
        ("hidden", 1, 1),
        ("logits", -1, 1),
        ("logits", float("inf"), 1),
        ("logits", 1, 0),
        ("embedding", 1, -1),
    ],
)
def test_distillation_out_of_range_is_refused(kind, weight, temperature):
    with pytest.raises(ValueError, match=r"(kind|weight) must be"):
        Distillation(kind, weight, temperature)


def test_models_without_one_classifier_are_refused(make_architecture, make_plain, make_tiny):
    models = (
        matvit.elastic(make_architecture("deit distilled")),
        make_plain(make_tiny()),
        make_tiny(num_classes=0),
    )
    for model in models:
        with pytest.raises(UnknownModelError, match="a MatViT or a MatEva with one classifier"):
            NestedTask(model, F.cross_entropy, joint(SPACE, ALL))


def test_names_that_mean_nothing_are_refused(tiny):
    with pytest.raises(ValueError, match="loss must be 'softmax' or 'sigmoid'"):
        criterion_for("hinge", label_smoothing=0.0, soft_targets=False)
    with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean'"):
        joint_task(tiny, reduction="max")


def test_a_submodel_of_another_encoder_is_refused(tiny, images):
    with pytest.raises(SubmodelError, match="this encoder has 4"):
        NestedTask(tiny, F.cross_entropy, always(SPACE.full))(images, TARGET)
