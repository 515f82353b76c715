"""Prompts get longer and lose nothing; what goes wrong leaves them as they are."""

import json

import pytest
import tokenizers
import torch
import transformers

import sample
from data.shapes import Shapes
from data.writers import Endpoint, Request
from generator import prompts
from generator.pipeline import VideoGenerator
from generator.prompts import LanguageModel, content_words, expand, lost, news

# ---- Template -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "longer"),
    [
        ("red circle right", "a red circle moves right"),
        ("Orange ring to the left", "an orange ring moves to the left"),
        ("small cyan cross spins", "a small cyan cross spins"),
        ("the blue square up and left slowly", "the blue square up and left slowly"),  # not understood
        ("on navy, pink triangle lower right", "on navy, a pink triangle moves lower right"),
        ("an astronaut rides a red square", "an astronaut rides a red square"),
        ("two red circles move right", "two red circles move right"),
        ("a red circle dances", "a red circle dances"),
        ("", ""),
    ],
)
def test_template_puts_words_in(prompt, longer):
    assert expand([prompt], "template") == [longer]


def test_template_leaves_training_captions_alone():
    captions = [Shapes("test", frames=9, height=8, width=8)[index].text for index in range(200)]
    assert expand(captions, "template") == captions
    understood = [prompts._parse(text) is not None for text in captions if "behind" not in text]
    assert all(understood)


def test_template_draws_what_captions_always_say():
    colours = {content_words(text)[0] for text in (expand(["a circle"], "template", seed)[0] for seed in range(40))}
    assert len(colours) > 4 and "yellow" not in colours  # training shows no yellow circle
    text = "a circle, a small ring bouncing and a red cross on a white background"
    (longer,) = expand([text], "template", seed=3)
    assert longer == expand(["other", text], "template", seed=3)[1]
    assert "bouncing" in longer and longer.count("moving") == 2 and longer.endswith(" on a white background")
    assert lost(Request(text), longer) is None
    assert prompts._parse(longer) is not None and expand([longer], "template") == [longer]


# ---- What may not get lost ------------------------------------------------------------------------------------------


def test_lost():
    def wrong(raw, text):
        return lost(Request(raw), text)

    assert wrong("a red circle moves right", "A bright red circle, moving to the right.") is None
    assert "loses right" in wrong("a red circle moves right", "a red circle moves across the picture")
    assert "loses red" in wrong("a red circle and a red ring", "a red circle and a ring")
    assert "loses 3" in wrong("3 dogs run", "dogs running") and wrong("dogs run", "a dog is running") is None
    assert "repeats 'a cat a'" in wrong("a cat", "a cat, a picture of a cat, a painting of a cat")
    assert "loses jumps, running" in wrong("a cat jumps, running", "a cat")
    assert "loses остров" in wrong("красный остров", "красный шар")
    assert wrong("her cat", "a cat") is None  # a function word


def test_news():
    assert (
        news(" its fur white, a cat, seen from the side. It sleeps.", "a cat") == "its fur white, seen from the side."
    )
    assert news("in the rain, in the rain, in the r", "a cat") == "in the rain."
    assert news("a cat, the cat", "a cat") == ""


# ---- Models ---------------------------------------------------------------------------------------------------------

WORDS = [f"w{index}" for index in range(30)]


@pytest.fixture
def folder(tmp_path):
    """A tiny language model whose words are w0 to w29, and that answers a comma with "w10 w11." and ends."""
    names = ["<end>", "<unk>", ",", ".", *WORDS]
    table = {word: index for index, word in enumerate(names)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>")
    config = transformers.LlamaConfig(
        vocab_size=34,
        hidden_size=40,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():  # the next word depends on the last one alone
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(34, 40))
        model.lm_head.weight.zero_()
        for last, following in ((",", "w10"), ("w10", "w11"), ("w11", "."), (".", "<end>")):
            model.lm_head.weight[table[following], table[last]] = 1
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def says(writer, text):
    """Makes a language model answer ``text`` whatever it is asked; returns what it was asked."""
    asked = []
    tokens = writer.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]

    def generate(input_ids, **options):
        asked.append(writer.tokenizer.decode(input_ids[0]))
        return torch.cat([input_ids, tokens], dim=1)

    writer.model.generate = generate
    return asked


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m['content'] }} w29 {% endfor %}"])
def test_a_model_goes_on_where_the_prompt_ends(folder, template):
    writer = LanguageModel(str(folder))
    writer.tokenizer.chat_template = template
    asked = says(writer, "w3 w4 , w1 , w5 w6 . w7")
    text = writer.write(Request("w1 w2."))
    assert text.replace(" ,", ",") == "w1 w2, w3 w4, w5 w6."
    assert asked[0].endswith("w1 w2 ,") and ("w29" in asked[0]) == (template is not None)


def test_a_model_writes(folder):
    assert expand(["w1 w2", "", "w3.", "w1 w2"], str(folder)) == [
        "w1 w2, w10 w11.",
        "",
        "w3, w10 w11.",
        "w1 w2, w10 w11.",
    ]
    with pytest.warns(UserWarning, match="'w11 w10' stays as it is .it wrote nothing"):
        assert expand(["w11 w10"], str(folder)) == ["w11 w10"]


def test_what_a_model_fails_at_stays_with_one_warning(folder, monkeypatch):
    monkeypatch.setattr(LanguageModel, "write", lambda self, request: "w5")
    with pytest.warns(UserWarning, match="'w1' stays as it is .the longer text loses w1: 'w5'") as caught:
        assert expand(["w1", "w5", "w2 w3"], str(folder)) == ["w1", "w5", "w2 w3"]
    assert len(caught) == 1


def test_models_that_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"language model 'nowhere' cannot be loaded .*expected 'template'") as caught:
        expand(["a"], "nowhere")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"m.gguf: .gguf files need gguf and accelerate: pip install -e '.\[gg"):
        expand(["a"], str(tmp_path / "m.gguf"))


def test_gguf_files_are_named_by_folder_and_file(monkeypatch):
    seen = {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda place, **given: seen.update(place=place, **given)
    )
    with pytest.raises(ValueError, match="cannot be loaded"):
        LanguageModel("owner/name/file.gguf")
    assert seen == {"place": "owner/name", "gguf_file": "file.gguf"}


def test_servers(monkeypatch):
    asked = []

    def call(self, path, body):
        asked.append((path, body))
        return {"choices": [{"message": {"content": f"{body['messages'][-1]['content']}, at dusk."}}]}

    with monkeypatch.context() as patch:
        patch.setattr(Endpoint, "_call", call)
        assert expand(["a cat", "a dog"], "http://somewhere/v1#it") == ["a cat, at dusk.", "a dog, at dusk."]
    assert asked[0][0] == "chat/completions" and asked[0][1]["model"] == "it"
    monkeypatch.setenv("no_proxy", "*")
    with pytest.warns(UserWarning, match="'a cat' stays as it is .*could not be asked") as caught:
        assert expand(["a cat", "a dog"], "http://127.0.0.1:9/v1#it") == ["a cat", "a dog"]
    assert len(caught) == 1


def test_a_chat_has_examples_before_the_prompt():
    chat = prompts.messages(Request("a red circle"))
    assert [message["role"] for message in chat] == ["system", *["user", "assistant"] * len(prompts.EXAMPLES), "user"]
    assert chat[-1]["content"] == "a red circle"
    for short, long in prompts.EXAMPLES:
        assert lost(Request(short), long) is None and long.startswith(short)


# ---- The program ----------------------------------------------------------------------------------------------------


def test_sampling_with_longer_prompts(tokenizer, generator, tmp_path):
    clip = {"frames": 9, "height": 16, "width": 24, "fps": 8.0}
    VideoGenerator(tokenizer, generator, clip).save_pretrained(tmp_path / "model")
    run = ["--model", str(tmp_path / "model"), "--steps", "2", "--revisions", "0"]
    args = ["--prompt", "red circle up", "--prompt", "a cat", "--num", "2", "--expand", "template"]
    paths = sample.main([*run, *args, "--out", str(tmp_path / "long")])
    records = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
    assert [record["prompt"] for record in records] == ["a red circle moves up"] * 2 + ["a cat"] * 2
    assert [record["raw_prompt"] for record in records] == ["red circle up"] * 2 + ["a cat"] * 2
    (same,) = sample.main([*run, "--prompt", "a red circle moves up", "--out", str(tmp_path / "same.mp4")])
    assert same.read_bytes() == paths[0].read_bytes()
    assert "raw_prompt" not in json.loads(same.with_suffix(".json").read_text())
