"""Folders are captioned by each kind of writer; what was there is kept; what fails is tried again."""

import base64
import io
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from data import captions
from data.folder import Folder
from data.looks import colours, describe
from data.shapes import Shapes
from data.writers import Endpoint, Guarded, Request, Writer, tidy
from data.writing import write_clip

SIZE = {"frames": 5, "height": 16, "width": 16}


@pytest.fixture
def root(tmp_path):
    """Three captioned videos of shapes, one in a folder within, and an image without a caption."""
    shapes = Shapes("test", frames=10, height=48, width=64, objects=[1])
    for index, name in enumerate(("a.mp4", "b.mp4", "more/c.mp4")):
        write_clip(tmp_path / "clips" / name, shapes[index].clip, 10)
        line = {"file_name": name, "text": f"short {index}", "size": index}
        with (tmp_path / "clips" / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    write_clip(tmp_path / "clips" / "still.png", torch.zeros(3, 1, 16, 24), 10)
    return tmp_path / "clips"


class Server:
    """Speaks as much of OpenAI's protocol as is asked of it, and remembers what it was sent."""

    def __init__(self):
        self.answer, self.models, self.seen = lambda body: "an answer", ["tiny"], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply({"data": [{"id": name} for name in outer.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers.get("Authorization"), body))
                answer = outer.answer(body)
                if isinstance(answer, int):
                    self.send_error(answer)
                else:
                    self.reply({"choices": [{"message": {"content": answer}}]})

            def reply(self, document):
                data = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Server()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- What can be measured -------------------------------------------------------------------------------------------


def test_colours_of_plain_pictures():
    named = {
        "red": (0.9, 0.1, 0.1),
        "orange": (1, 0.5, 0),
        "yellow": (1, 0.9, 0.1),
        "green": (0.1, 0.7, 0.2),
        "cyan": (0.1, 0.9, 0.9),
        "blue": (0.1, 0.3, 1),
        "purple": (0.6, 0.1, 0.8),
        "pink": (1, 0.5, 0.8),
        "brown": (0.4, 0.25, 0.1),
        "black": (0, 0, 0),
        "grey": (0.5, 0.5, 0.5),
        "white": (1, 1, 1),
    }
    for name, rgb in named.items():
        assert colours(torch.tensor(rgb).view(3, 1, 1, 1).expand(3, 2, 4, 4)) == {name: 1.0}


def test_descriptions_agree_with_the_scenes():
    shapes = Shapes("test", frames=8, height=48, width=48, fps=4, objects=[1], seed=3)
    for example in (shapes[index] for index in range(60)):
        text, (thing,) = describe(example.clip), example.attributes["things"]
        assert thing["colour"] in text
        ground = {"navy": "blue"}.get(example.attributes["background"], example.attributes["background"])
        assert f"mostly {ground}" in text
        assert ("stands still" in text) == (thing["motion"] == "still")
        assert "travels" not in text or thing["motion"] == "moves"
        for word in ("right", "left", "up", "down"):  # never a wrong way; "upper left" is up and left
            ways = (thing["direction"] or "").replace("upper", "up").replace("lower", "down").split()
            assert word not in text.replace(".", "").split() or word in ways


def test_light_and_stills():
    fade = torch.linspace(-1, 1, 6).view(1, 6, 1, 1).expand(3, 6, 8, 8)
    assert "most of the picture changes, growing brighter" in describe(fade)
    assert "growing darker" in describe(fade.flip(1))
    assert describe(torch.ones(3, 1, 8, 8)) == "bright, almost all white."  # an image: nothing about change


# ---- Folders --------------------------------------------------------------------------------------------------------


def test_template_keeps_what_was_there(root):
    before = (root / "metadata.jsonl").read_bytes()
    out = captions.main([str(root)])
    assert out == root / "captions.jsonl" and (root / "metadata.jsonl").read_bytes() == before
    first, _, third, still = lines(out)
    assert (first["file_name"], first["text"], first["size"]) == ("a.mp4", "short 0", 0)
    assert first["long_text"].startswith("short 0. ") and "Mostly grey" in first["long_text"]
    assert (third["file_name"], third["text"], still["text"]) == ("more/c.mp4", "short 2", "")
    assert still["long_text"] == "Almost all grey."


def test_training_reads_short_and_long(root):
    out = str(captions.main([str(root)]))
    shares = {}
    for share in (0.0, 0.5, 1.0):
        folder = Folder(str(root), metadata=out, long_share=share, **SIZE)
        texts = [folder[index].text for index in range(0, 160, 4)]
        shares[share] = sum(text != "short 0" for text in texts) / len(texts)
        assert folder[3].text == "Almost all grey."  # the still has a long one only
        assert texts == [Folder(str(root), metadata=out, long_share=share, **SIZE)[i].text for i in range(0, 160, 4)]
    assert shares[0.0] == 0 and shares[1.0] == 1 and 0.3 < shares[0.5] < 0.7
    assert folder.uncaptioned == 0


def test_the_clip_does_not_depend_on_the_caption(root):
    out = str(captions.main([str(root)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = Folder(str(root), **SIZE)
    mixed = Folder(str(root), metadata=out, long_share=0.5, **SIZE)
    assert all(plain[index].clip.equal(mixed[index].clip) for index in range(8))
    still = Folder(str(root), metadata=out, long_share=0.5, random=False, **SIZE)
    assert [still[i].text for i in range(4)] == [still[i + 4].text for i in range(4)]


def test_several_long_captions(root):
    text = json.dumps({"file_name": "a.mp4", "text": "short", "long_text": ["one", "two"]})
    (root / "metadata.jsonl").write_text(text)
    with pytest.warns(UserWarning, match="have no caption"):
        folder = Folder(str(root), long_share=0.5, **SIZE)
    assert {folder[index].text for index in range(0, 120, 4)} == {"short", "one", "two"}
    (root / "metadata.jsonl").write_text(text.replace('["one", "two"]', "5"))
    with pytest.raises(ValueError, match="long_text must be"):
        Folder(str(root))


def test_wrong_arguments(root, tmp_path):
    with pytest.raises(ValueError, match="long_share is 2, expected a share"):
        Folder(str(root), long_share=2)
    with pytest.raises(ValueError, match=r"none.jsonl: no such file"):
        Folder(str(root), metadata=str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="--frames is 0"):
        captions.main([str(root), "--frames", "0"])
    with pytest.raises(ValueError, match="captioning model 'nowhere' cannot be loaded"):
        captions.main([str(root), "--backend", "nowhere"])
    with pytest.raises(ValueError, match="was written by somebody else, not by template: give another --out"):
        captions.main([str(root), "--out", str(root / "metadata.jsonl")])
    before = (root / "metadata.jsonl").read_bytes()
    for foreign in (before, before.rstrip(), before.splitlines()[0], b"[1]\n", b"no json\n", b"\xff\n"):
        (tmp_path / "mine").write_bytes(foreign)
        with pytest.raises(ValueError, match="give another --out"):
            captions.main([str(root), "--out", str(tmp_path / "mine")])
        assert (tmp_path / "mine").read_bytes() == foreign
    captions.main([str(root), "--out", str(tmp_path / "elsewhere.jsonl")])
    assert Folder(str(root), metadata=str(tmp_path / "elsewhere.jsonl"), long_share=1, **SIZE)[2].text != "short 2"


class Counting(Writer):
    """Fails on the clips it is told to."""

    def __init__(self, fails=()):
        self.fails, self.asked = fails, []

    def write(self, request):
        self.asked.append(request.text)
        if request.text in self.fails:
            raise RuntimeError("out of\nmemory")
        return f"long {request.text}"


def recaption(root, writer, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* have no caption")
        folder = Folder(str(root))
    return captions.recaption(folder, root / "captions.jsonl", Guarded(writer), "counting", **options)


def test_goes_on_where_it_was(root):
    assert recaption(root, Counting()) == 0
    whole = (root / "captions.jsonl").read_bytes()
    (root / "captions.jsonl").write_bytes(whole[: len(whole) // 2])  # killed within a line
    writer = Counting()
    assert recaption(root, writer) == 0
    assert (root / "captions.jsonl").read_bytes() == whole and 0 < len(writer.asked) < 4
    writer = Counting()
    recaption(root, writer)
    assert not writer.asked


def test_failures_keep_their_caption_and_are_tried_again(root):
    with pytest.warns(UserWarning, match=r"'short 1' stays as it is \(RuntimeError: out of memory\)") as caught:
        assert recaption(root, Counting(["short 1", "short 2"])) == 2
    assert len(caught) == 1  # once
    entries = {entry["file_name"]: entry for entry in lines(root / "captions.jsonl")}
    assert entries["a.mp4"]["long_text"] == "long short 0"  # neighbours of a failure are written
    assert entries["b.mp4"]["text"] == "short 1" and "long_text" not in entries["b.mp4"]
    with pytest.warns(UserWarning):
        recaption(root, Counting(["short 1"]))
    assert len(lines(root / "captions.jsonl")) == 5  # the same failure is not written again
    writer = Counting()
    assert recaption(root, writer) == 0 and writer.asked == ["short 1"]
    folder = Folder(str(root), metadata=str(root / "captions.jsonl"), long_share=1, **SIZE)
    assert [folder[index].text for index in range(3)] == ["long short 0", "long short 1", "long short 2"]


def test_broken_files_fail_alone(root):
    (root / "b.mp4").write_bytes(b"no video")
    assert recaption(root, Counting()) == 1
    entry = next(entry for entry in lines(root / "captions.jsonl") if entry["file_name"] == "b.mp4")
    assert "not a readable video" in entry["error"] and entry["text"] == "short 1"


def test_frames_are_spread_over_the_whole_video(root):
    seen = []

    class Looking(Writer):
        def write(self, request):
            seen.append(request.clip)
            return "seen"

    recaption(root, Looking(), frames=5, size=32)
    assert seen[0].shape == (3, 5, 24, 32)  # in its proportions
    assert seen[-1].shape == (3, 1, 16, 24)  # an image, not enlarged
    whole = captions.read_clip(root / "a.mp4", height=24, width=32)[0]
    assert seen[0].equal(whole[:, ::2])


# ---- Servers --------------------------------------------------------------------------------------------------------


def test_a_server_sees_frames_and_question(root, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answer = lambda body: '<think>hm\n</think>\n"A clip\nof a shape."'
    out = captions.main([str(root), "--backend", f"{server.url}#eyes", "--frames", "3"])
    assert [entry["long_text"] for entry in lines(out)] == ["A clip of a shape."] * 4
    assert "secret" not in out.read_text()
    path, key, body = next(seen for seen in server.seen if "short 0" in str(seen))
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "eyes")
    *pictures, text = body["messages"][0]["content"]
    assert len(pictures) == 3 and 'Somebody called it "short 0"' in text["text"]
    data = pictures[0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(float)
    original = captions.to_uint8(captions.read_clip(root / "a.mp4", 1)[0])[0].astype(float)
    assert picture.shape == original.shape and abs(picture - original).mean() < 5


def test_the_only_model_of_a_server(server):
    endpoint = Endpoint(server.url, lambda request: [{"role": "user", "content": request.text}])
    assert endpoint.write(Request("a")) == "an answer"
    assert server.seen[0][1] is None and server.seen[0][2]["model"] == "tiny"
    server.models = ["one", "two"]
    with pytest.raises(ValueError, match=r"has one, two: name one, http.*#MODEL"):
        Endpoint(server.url, lambda request: []).write(Request("a"))


def test_servers_that_fail(server):
    endpoint = Endpoint(f"{server.url}#tiny", lambda request: [{"role": "user", "content": request.text}])
    server.answer = lambda body: 429 if "a" in body["messages"][0]["content"] else "well"
    with pytest.warns(UserWarning, match="answered 429 Too Many Requests") as caught:
        written = Guarded(endpoint)([Request("a"), Request("b"), Request("aa")])
    assert [result.text for result in written] == ["a", "well", "aa"] and len(caught) == 1
    server.answer = lambda body: None
    with pytest.warns(UserWarning, match="it wrote nothing"):
        assert Guarded(endpoint)([Request("b")])[0].text == "b"
    silent = Endpoint("http://127.0.0.1:9/v1#tiny", endpoint.messages)
    with pytest.warns(UserWarning, match=r"http://127.0.0.1:9/v1/chat/completions could not be asked"):
        assert Guarded(silent)([Request("b")])[0].text == "b"


def test_a_redirected_key_stays_at_home(server, monkeypatch):
    """urllib follows redirects of what it reads, to other hosts too, and must not take the key there."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    requests = []
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda request, timeout: requests.append(request) or io.BytesIO(b"{}")
    )
    with pytest.raises(ValueError, match="expected choices"):
        Endpoint(f"{server.url}#tiny", lambda request: []).write(Request("a"))
    assert requests[0].unredirected_hdrs == {"Authorization": "Bearer secret"}
    assert "Authorization" not in requests[0].headers


def test_tidy():
    assert tidy(' "A cat\n jumps." ') == "A cat jumps."


# ---- Models ---------------------------------------------------------------------------------------------------------


def vocabulary(words):
    import tokenizers
    import transformers

    table = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "<image>"])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


WORDS = [f"w{index}" for index in range(40)]


@pytest.fixture
def captioner(tmp_path):
    """A plain captioner: BLIP with random weights."""
    import transformers

    torch.manual_seed(0)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**text, "image_size": 16, "patch_size": 8}
    text |= {"vocab_size": 45, "encoder_hidden_size": 16, "bos_token_id": 2, "eos_token_id": 44, "sep_token_id": 44}
    config = transformers.BlipConfig(
        text_config=text | {"pad_token_id": 0}, vision_config=vision, projection_dim=16, image_text_hidden_size=16
    )
    model = transformers.BlipForConditionalGeneration(config)
    model.apply(lambda m: torch.nn.init.normal_(m.weight, std=0.5) if hasattr(m, "weight") else None)
    model.save_pretrained(tmp_path / "blip")
    pictures = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(pictures, vocabulary(WORDS)).save_pretrained(tmp_path / "blip")
    return str(tmp_path / "blip")


@pytest.fixture
def chatting(tmp_path):
    """A model that chats about images: LLaVA with random weights."""
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = transformers.CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=16)
    text = transformers.LlamaConfig(**small, num_key_value_heads=2, vocab_size=45, max_position_embeddings=256)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_token_id=4)
    model = transformers.LlavaForConditionalGeneration(config)
    model.apply(lambda m: torch.nn.init.normal_(m.weight, std=0.5) if hasattr(m, "weight") else None)
    model.save_pretrained(tmp_path / "llava")
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True
    )
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    transformers.LlavaProcessor(
        pictures,
        vocabulary([*WORDS]),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(tmp_path / "llava")
    return str(tmp_path / "llava")


def test_models_write(root, captioner, chatting):
    clip = Shapes("test", frames=3, height=24, width=32)[0].clip
    for path in (captioner, chatting):
        writer = captions.VisionModel(path, max_tokens=6)
        texts = [writer.write(Request("a", clip)), writer.write(Request("b w1", -clip))]
        assert all(0 < len(text.split()) <= 7 and set(text.split()) <= {*WORDS, "[UNK]"} for text in texts), texts
    out = captions.main([str(root), "--backend", captioner, "--device", "cpu"])
    assert len(lines(out)) == 4


def test_a_chat_holds_the_frames_and_the_caption(chatting):
    clip = Shapes("test", frames=3, height=24, width=32)[0].clip
    writer, seen = captions.VisionModel(chatting, max_tokens=2), []
    generate = writer.model.generate
    writer.model.generate = lambda **inputs: seen.append(inputs) or generate(**inputs)
    writer.write(Request("w7 w8", clip))
    assert seen[0]["pixel_values"].shape[0] == 3 and (seen[0]["input_ids"] == 4).sum() == 3 * 4
    assert WORDS.index("w7") + 5 in seen[0]["input_ids"]
