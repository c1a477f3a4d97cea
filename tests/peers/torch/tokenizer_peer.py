# SPDX-License-Identifier: MIT
"""Compares our tokenizer and chat template with the libraries `tokenizers` and Jinja2 (as transformers sets it up).

tokenizer_peer.py TOK_DUMP MODEL.gguf [COUNT]: takes the vocabulary, the merges and the chat template out of the GGUF
file, builds the model's tokenizer and, over the same vocabulary, those of the other pre-tokenizers and of the other
rules (NFC, ignore_merges, added tokens with flags), and compares COUNT (20000) varied strings on each: ids with control
tokens recognised and not, decoded text at once and token by token; then 2000 conversations. Prints one TAP line each.

tokenizer_peer.py TOK_DUMP --golden OUT_DIR: trains small tokenizers and writes what `make check` replays.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BEFORE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
SPLITS = {"llama3": BEFORE + "{1,3}" + AFTER, "qwen2": BEFORE + AFTER}
KINDS = ("smollm", "gpt2", "llama3", "qwen2")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
           "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
           "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
          "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
results = []


def report(name, wrong, total):
    results.append(not wrong)
    print(f"{'ok' if not wrong else 'not ok'} {len(results)} - {name}: {total - len(wrong)} of {total} equal", flush=True)
    for line in wrong[:5]:
        print(f"# {line}")


def pre_tokenizer(kind):
    if kind == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = (pre_tokenizers.Digits(individual_digits=True) if kind == "smollm"
             else pre_tokenizers.Split(Regex(SPLITS[kind]), "isolated"))
    return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")])


def dress(tok, kind, specials, odd=False):
    """The rules of a kind around a BPE model; `odd` adds tokens with every flag."""
    tok.pre_tokenizer = pre_tokenizer(kind)
    tok.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    if odd:
        tok.add_tokens([AddedToken("<|tool|>", normalized=False), AddedToken("<|im", normalized=False),
                        AddedToken("<left>", lstrip=True, normalized=False),
                        AddedToken("<right>", rstrip=True, normalized=False),
                        AddedToken("word", single_word=True, normalized=False),
                        AddedToken("caf\u00e9", normalized=True), AddedToken("  ", normalized=True)])
    if kind == "llama3":
        first = specials[0]
        tok.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tok.token_to_id(first))])
    return tok


PLANES = [(0x20, 0x7F), (0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00),
          (0x1100, 0x1200), (0x2000, 0x2070), (0x2070, 0x2400), (0x3000, 0x3100), (0x4E00, 0x5000), (0xA000, 0xD7FF),
          (0xF900, 0xFFFD), (0x10000, 0x18000), (0x1D400, 0x1D800), (0x1F000, 0x1FA00), (0x20000, 0x20100), (0, 0x20)]
WORDS = ("the quick brown fox isn't I'm you're we'VE they'll he'd 'S x's def return print( ) ) ; {} [1, 2] 3.14159 1000000 "
         "naïve café cafe\u0301 Straße 東京 北京大学 한국어 привет мир עברית हिन्दी 👩‍👩‍👧 🇩🇪 e\u0301\u0323 <|im_end|> <|im_start|> <|im "
         "<|endoftext|> <|tool|> <left> <right> word words keyword <br/> http://a.b/c?d=e&f=g ½ Ⅷ ² ٣ ''' ... — – “quoted” "
         "'\u017f \u212a ﬁ \u1e9b\u0323 \u0f73 \ufb1d").split(" ")
BLANKS = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2003 ", "\x1c", "\x85",
          "", "", "\u200b"]


def string(rng):
    style = rng.randrange(5)
    if style == 0:
        low, high = rng.choice(PLANES)
        chars = [chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 40))]
    elif style == 1:
        chars = [chr(rng.randrange(*rng.choice(PLANES))) for _ in range(rng.randrange(1, 30))]
    elif style == 2:
        chars = [rng.choice("ab'sSlLdDtTmMvVrReE 12\n\r\t.,!<|>") for _ in range(rng.randrange(1, 60))]
    else:
        chars = [rng.choice(WORDS) + rng.choice(BLANKS) for _ in range(rng.randrange(1, 25))]
    return "".join(c for c in "".join(chars) if c != "\0")


def dump(program, path, lines, template="chatml"):
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    done = subprocess.run([program, path, template], input=text, capture_output=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def encode_plain(tok, text):
    tok.encode_special_tokens = True
    ids = tok.encode(text, add_special_tokens=False).ids
    tok.encode_special_tokens = False
    return ids


def theirs(tok, text):
    ids = tok.encode(text, add_special_tokens=False).ids
    return {"ids": ids, "plain": encode_plain(tok, text), "text": tok.decode(ids, skip_special_tokens=False)}


def compare_strings(program, name, tok, strings, keys=("ids", "plain", "text")):
    """Our reading of the peer's own tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        tok.save(path)
        compare_dumped(name, tok, strings, dump(program, path, strings), keys)


def compare_dumped(name, tok, strings, ours, keys=("ids", "plain", "text")):
    wrong = []
    for text, mine in zip(strings, ours, strict=True):
        want = theirs(tok, text) | {"stream": mine["text"]}
        bad = [key for key in (*keys, "stream") if mine[key] != want[key]]
        if bad:
            wrong.append(f"{text!r}: {bad[0]} {mine[bad[0]]!r}, not {want[bad[0]]!r}")
    report(name, wrong, len(strings))


def jinja(source):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return env.from_string(source)


def conversation(rng):
    messages = [{"role": "system", "content": string(rng)}] if rng.random() < 0.5 else []
    for turn in range(rng.randrange(1, 5)):
        messages.append({"role": ("user", "assistant")[turn % 2], "content": string(rng)})
    return {"messages": messages, "generate": rng.random() < 0.7}


def compare_chats(program, name, tok, source, chats):
    template = jinja(source)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        tok.save(path)
        ours = dump(program, path, chats, name)
    wrong = []
    for chat, mine in zip(chats, ours, strict=True):
        text = template.render(messages=chat["messages"], add_generation_prompt=chat["generate"])
        ids = tok.encode(text, add_special_tokens=False).ids
        inside = any("<|" in m["content"] for m in chat["messages"])
        if mine["text"] != text or mine["ids"] != ids or (not inside and mine["safe"] != ids):
            wrong.append(f"{chat!r}: {mine['text']!r}, not {text!r}")
    report(f"chat template {name}", wrong, len(chats))


def read_gguf(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    take = {key: fields["tokenizer." + key].contents()
            for key in ("ggml.tokens", "ggml.merges", "ggml.token_type", "chat_template")}
    vocab = {token: i for i, token in enumerate(take["ggml.tokens"])}
    specials = [t for t, kind in zip(take["ggml.tokens"], take["ggml.token_type"], strict=True) if kind == 3]
    return vocab, [tuple(m.split(" ")) for m in take["ggml.merges"]], specials, take["chat_template"]


def main_peer(program, gguf, count):
    rng = random.Random(20261124)
    vocab, merges, specials, source = read_gguf(gguf)
    strings = [string(rng) for _ in range(count)]
    for kind in KINDS:
        for odd in (False, True):
            bpe = models.BPE(vocab=vocab, merges=merges, ignore_merges=kind == "llama3")
            tok = dress(Tokenizer(bpe), kind, specials, odd)
            compare_strings(program, f"{kind}{', odd added tokens' if odd else ''}", tok, strings,
                            # The peer's decoder takes an added token's own letters for byte symbols.
                            ("ids", "plain") if odd else ("ids", "plain", "text"))
    tok = dress(Tokenizer(models.BPE(vocab=vocab, merges=merges)), "smollm", specials)
    compare_dumped("smollm, from the GGUF file", tok, strings, dump(program, gguf, strings))
    chats = [conversation(rng) for _ in range(2000)]
    compare_chats(program, "smollm2", tok, source, chats)
    compare_chats(program, "chatml", tok, CHATML, chats)


def main_golden(out):
    """Four small tokenizers, each with 100 strings and what the peer makes of them; and some chats."""
    rng = random.Random(7)
    corpus = [string(rng) for _ in range(300)] + ["hello world, how are you today? " * 3, "The end of the turn.\n"] * 30
    for kind in KINDS:
        tok = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
        tok.pre_tokenizer = pre_tokenizer(kind)
        alphabet = [] if kind == "smollm" else sorted(pre_tokenizers.ByteLevel.alphabet())
        tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIALS,
                                                            initial_alphabet=alphabet, show_progress=False))
        dress(tok, kind, SPECIALS, odd=kind in ("gpt2", "qwen2"))
        saved = json.loads(tok.to_str())
        if kind == "gpt2":
            saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
        with open(os.path.join(out, f"tokenizer-{kind}.json"), "w", encoding="utf-8") as f:
            json.dump(saved, f, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(out, f"tokenizer-{kind}.jsonl"), "w", encoding="utf-8") as f:
            for text in [string(rng) for _ in range(100)]:
                # "café" is spelled raw among the odd tokens: the peer decodes that as byte symbols, wrongly.
                want = theirs(tok, text)
                f.write(json.dumps({"string": text} | want, ensure_ascii=False) + "\n")
    with open(os.path.join(out, "chat-golden.jsonl"), "w", encoding="utf-8") as f:
        for _ in range(30):
            chat = conversation(rng)
            for name, source in (("smollm2", SMOLLM2), ("chatml", CHATML)):
                text = jinja(source).render(messages=chat["messages"], add_generation_prompt=chat["generate"])
                f.write(json.dumps({"template": name} | chat | {"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[2] == "--golden":
        main_golden(sys.argv[3])
        sys.exit(0)
    main_peer(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 20000)
    print(f"1..{len(results)}")
    sys.exit(0 if all(results) else 1)
