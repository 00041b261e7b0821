"""What an installation without the export extra must be able to do, and what importing costs."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

BLOCKED = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "optimum",
    "jinja2",
    "safetensors",
    "huggingface_hub",
)


def python(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_import_pumice_imports_nothing_heavy() -> None:
    loaded = python(
        "import sys; before = set(sys.modules); import pumice; print(*(set(sys.modules) - before))"
    ).split()
    assert [name for name in loaded if name.startswith("pumice")] == ["pumice"]
    assert len(loaded) < 20
    assert not {"numpy", "onnxruntime", "PIL", "tokenizers", "minijinja", "msgspec"} & set(loaded)


def test_public_names_are_all_there() -> None:
    import pumice

    assert set(pumice.__all__) <= set(dir(pumice))
    for name in pumice.__all__:
        assert getattr(pumice, name).__name__ == name
    assert pumice.__version__.count(".") == 2


def test_a_whole_generation_without_the_export_extra(pebble_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "image.png")
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
import pumice
model = pumice.load(sys.argv[1], device="cpu", threads=1)
result = model.generate("What is in this picture?", [sys.argv[2]], max_new_tokens=8)
assert result.token_ids
model.chat().send("Hi", max_new_tokens=2)
model.logits("Hi")
from pumice.cli import main
assert main(["run", sys.argv[1], "-i", sys.argv[2], "What?", "--max-new-tokens", "2"]) == 0
assert main(["info", sys.argv[1]]) == 0
assert not set({BLOCKED}) & {{name.split(".")[0] for name in sys.modules}}
print("done")
"""
    assert python(program, str(pebble_bundle), str(tmp_path / "image.png")).endswith("done\n")


def test_exporting_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    program = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from pumice.cli import main
sys.stderr = sys.stdout
print(main(["export", sys.argv[1], sys.argv[1] + "/out"]))
"""
    lines = python(program, str(tmp_path)).splitlines()
    assert lines[-1] == "2"
    assert "pip install 'pumice[export]'" in lines[-2]
