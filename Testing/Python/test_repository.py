"""Rules that hold for the repository as a whole: layers, package lists, catalog files, pages."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from DDSPSegmentationLib.engine.html_page import RESEARCH_ONLY

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DDSPSegmentation"
LIBRARY = "DDSPSegmentationLib"
LAYERS = {"engine": 0, "library": 1, "learning": 1, "service": 2, "scene": 3}
SLICER_PACKAGES = ("slicer", "vtk", "vtkmodules", "qt", "ctk", "mrml", "PythonQt", "PySide6")
MEBIBYTE = 2**20


def is_kept(path: Path) -> bool:
    """Whether a path, relative to the module's folder, is a source and no left-over of a tool."""
    return not any(part.startswith(".") or part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)


def files_under(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and is_kept(path.relative_to(MODULE)))


PRODUCT_FILES = files_under(MODULE, "*.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(path: Path) -> str | None:
    parts = path.relative_to(MODULE).parts
    return parts[1] if parts[0] == LIBRARY and len(parts) > 2 else None


def module_name(path: Path) -> str:
    parts = list(path.relative_to(MODULE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(node: ast.AST, path: Path) -> list[str]:
    """Dotted names that one statement or call imports, relative ones resolved, ``from a import b`` as a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module_name(path).split(".")
            if path.name != "__init__.py":
                package.pop()
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, base] if base else package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def all_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in imported_names(node, path)}


def file_scope_imports(path: Path) -> set[str]:
    """What is imported when the file itself is: function bodies and ``if TYPE_CHECKING`` left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        found.update(imported_names(node, path))
        waiting.extend(ast.iter_child_nodes(node))
    return found


def cmake_list(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(rf"set\({name}\s(.*?)\)", text, re.DOTALL)
    assert match, f"DDSPSegmentation/CMakeLists.txt has no list {name}"
    return set(match.group(1).split())


def cmake_setting(name: str) -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(rf'^set\({name} "([^"\n]*)"\)$', text, re.MULTILINE)
    assert match, f"CMakeLists.txt does not set {name} in quotes on one line"
    return match.group(1)


def catalog_description() -> dict[str, str]:
    lines = (ROOT / "DDSPSegmentation.s4ext").read_text(encoding="utf-8").splitlines()
    return dict((line.split(" ", 1) + [""])[:2] for line in lines if line and not line.startswith("#"))


def committed_texts() -> list[Path]:
    """Every text file that git tracks or would track, or without git every one outside of tool folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        ignored = {"demo", "runs", "cache", "build"}
        relative = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        paths = [ROOT / path for path in relative if is_kept(path) and path.parts[0] not in ignored]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


# ---- layers


@pytest.mark.parametrize("path", [p for p in PRODUCT_FILES if layer_of(p)], ids=name_of)
def test_a_layer_imports_only_from_its_own_level_or_below(path):
    level = LAYERS[layer_of(path)]
    for name in all_imports(path):
        parts = name.split(".")
        if parts[0] == LIBRARY and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS[parts[1]] <= level, f"{name_of(path)} imports {name}, which lies above it"
        assert parts[0] != "DDSPSegmentation", f"{name_of(path)} imports the Slicer module file"


@pytest.mark.parametrize("path", [p for p in PRODUCT_FILES if layer_of(p) not in (None, "scene")], ids=name_of)
def test_only_the_scene_layer_knows_slicer_vtk_and_qt(path):
    for name in all_imports(path):
        assert name.split(".")[0] not in SLICER_PACKAGES, f"{name_of(path)} imports {name}"


def test_nothing_that_slicer_loads_brings_torch_with_it():
    graph = {module_name(path): file_scope_imports(path) for path in PRODUCT_FILES}
    for path in PRODUCT_FILES:
        if layer_of(path) in ("engine", "library", "learning"):
            continue
        seen, chain = set(), [(module_name(path),)]
        while chain:
            trail = chain.pop()
            for name in graph.get(trail[-1], ()):
                assert name.split(".")[0] not in ("torch", "PyTorchUtils"), " -> ".join([*trail, name])
                if name in graph and name not in seen:
                    seen.add(name)
                    chain.append((*trail, name))


STUB_SLICER = """
import importlib.abc, importlib.machinery, sys, types

class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stub(name)

def stub(name):
    return Anything(name, (), {"__init__": lambda self, *a, **k: None, "__call__": lambda self, *a, **k: self})

class Module(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stub(name)

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("slicer", "vtk", "vtkmodules", "qt", "ctk"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Module(spec.name)
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Finder())
sys.modules["torch"] = None
sys.modules["PyTorchUtils"] = None
"""
# As Slicer does: the module's folder behind site-packages, the module itself from its file.
LOAD_MODULE = """
import importlib.util
sys.path.append(sys.argv[1])
spec = importlib.util.spec_from_file_location("DDSPSegmentation", f"{sys.argv[1]}/DDSPSegmentation.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.DDSPSegmentationLogic and module.DDSPSegmentationWidget
"""
SAY_PLACES = """
import os
from DDSPSegmentationLib.service.processes import python_environment
print(sys.modules["DDSPSegmentationLib"].__file__, sys.modules["DDSPSegmentationLib.engine.errors"].__file__,
      python_environment()["PYTHONPATH"].split(os.pathsep)[0], sep="\\n")
"""


def in_stub_slicer(code: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", STUB_SLICER + code, str(MODULE)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_module_file_imports_in_a_slicer_without_torch():
    run = in_stub_slicer(LOAD_MODULE)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("before", ["", "import DDSPSegmentationLib.engine.errors"], ids=["", "imported before"])
def test_a_library_installed_into_slicers_python_never_takes_the_place_of_the_modules_own(before, tmp_path):
    installed = tmp_path / "site-packages"
    (installed / LIBRARY / "engine").mkdir(parents=True)
    for name in ("__init__.py", "engine/__init__.py", "engine/errors.py"):
        (installed / LIBRARY / name).write_text("", encoding="utf-8")
    run = in_stub_slicer(before + LOAD_MODULE + SAY_PLACES, PYTHONPATH=str(installed))
    assert run.returncode == 0, run.stderr
    library = MODULE / LIBRARY
    assert run.stdout.splitlines() == [*map(str, (library / "__init__.py", library / "engine" / "errors.py", MODULE))]


def test_every_service_imports_without_torch():
    code = "import sys; sys.modules['torch'] = None; sys.path.insert(0, sys.argv[1]); [*map(__import__, sys.argv[2:])]"
    services = [module_name(path) for path in PRODUCT_FILES if layer_of(path) == "service"]
    run = subprocess.run(
        [sys.executable, "-c", code, str(MODULE), *services], capture_output=True, text=True, check=False
    )
    assert services and run.returncode == 0, run.stderr


# ---- the package


def test_cmake_lists_every_script_and_no_other():
    present = {path.relative_to(MODULE).as_posix() for path in PRODUCT_FILES}
    listed = {entry.replace("${MODULE_NAME}", "DDSPSegmentation") for entry in cmake_list("MODULE_PYTHON_SCRIPTS")}
    assert listed == present, f"to add: {sorted(present - listed)}; to remove: {sorted(listed - present)}"


def test_cmake_lists_every_resource_and_no_other():
    present = {path.relative_to(MODULE).as_posix() for path in files_under(MODULE / "Resources", "*")}
    listed = {entry.replace("${MODULE_NAME}", "DDSPSegmentation") for entry in cmake_list("MODULE_PYTHON_RESOURCES")}
    assert listed == present, f"to add: {sorted(present - listed)}; to remove: {sorted(listed - present)}"


def test_no_loose_script_lies_beside_the_module_file():
    assert [path.name for path in MODULE.glob("*.py")] == ["DDSPSegmentation.py"]


def test_every_package_folder_has_an_init_file():
    folders = {path.parent for path in PRODUCT_FILES if LIBRARY in path.parts}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=name_of)
def test_a_product_file_stays_inside_the_installed_folder(path):
    depth = len(path.relative_to(MODULE).parts) - 1
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if "__file__" in line:
            steps = [int(number) for number in re.findall(r"parents\[(\d+)\]", line)]
            steps += [len(re.findall(r"\.parent\b", chain)) - 1 for chain in re.findall(r"(?:\.parent\b)+", line)]
            assert all(step <= depth for step in steps), f"{name_of(path)} leaves the module's folder: {line.strip()}"
    assert "Screenshots" not in text, f"{name_of(path)} refers to the repository's own pictures"
    assert f"..{os.sep}Resources" not in text and "../Resources" not in text


def test_the_sample_scan_is_small_and_its_attribution_lies_beside_it():
    scan = MODULE / "Resources/SampleData/ProstateX-0000.nrrd"
    attribution = (scan.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert scan.stat().st_size <= 4 * MEBIBYTE
    for needed in ("CC BY 3.0", "10.7937/K9TCIA.2017.MURS5CL", "PROSTATEx", "Litjens", "Changes"):
        assert needed in attribution
    assert hashlib.sha256(scan.read_bytes()).hexdigest() in attribution


def test_the_sample_scan_carries_its_oblique_geometry_and_no_other_metadata():
    content = (MODULE / "Resources/SampleData/ProstateX-0000.nrrd").read_bytes()
    header = content[: content.index(b"\n\n")].decode("ascii").splitlines()
    fields = dict(line.split(": ", 1) for line in header[1:] if not line.startswith("#"))
    assert set(fields) == {
        "type", "dimension", "space", "sizes", "space directions", "kinds", "endian", "encoding", "space origin",
    }  # fmt: skip
    assert fields["sizes"] == "384 384 19" and fields["encoding"] == "gzip"
    directions = re.findall(r"\(([^)]*)\)", fields["space directions"])
    slice_step = [float(value) for value in directions[2].split(",")]
    assert slice_step == pytest.approx([0.0037706, 0.9514397, 2.8451271], abs=1e-6)
    origin = [float(value) for value in fields["space origin"].strip("()").split(",")]
    assert origin == pytest.approx([-57.685437, -82.363057, -27.080757], abs=1e-5)


def test_the_models_folder_stays_under_16_megabytes():
    models = MODULE / "Resources/Models"
    assert sum(path.stat().st_size for path in models.rglob("*") if path.is_file()) <= 16 * MEBIBYTE


# ---- catalog


def test_the_description_file_is_in_step_with_cmake():
    description = catalog_description()
    assert list(description) == [
        "scm", "scmurl", "scmrevision", "depends", "build_subdirectory", "homepage", "contributors", "category",
        "iconurl", "status", "description", "screenshoturls", "enabled",
    ]  # fmt: skip
    for key in ("depends", "homepage", "contributors", "category", "iconurl", "description", "screenshoturls"):
        assert description[key] == cmake_setting(f"EXTENSION_{key.upper()}"), key
    assert description["scmurl"] == f"{description['homepage']}.git"


def test_the_catalog_entry_is_in_step_with_cmake_and_the_description_file():
    entry = json.loads((ROOT / "DDSPSegmentation.json").read_text(encoding="utf-8"))
    description = catalog_description()
    assert entry["$schema"].startswith("https://raw.githubusercontent.com/Slicer/Slicer/")
    assert entry["category"] == cmake_setting("EXTENSION_CATEGORY")
    assert entry["build_dependencies"] == cmake_setting("EXTENSION_DEPENDS").split()
    assert entry["scm_url"] == description["scmurl"] and entry["scm_revision"] == description["scmrevision"]
    assert entry["build_subdirectory"] == description["build_subdirectory"]
    assert entry["tier"] in range(1, 6)


def test_the_project_is_named_as_its_catalog_files():
    project = re.search(r"^project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert project and (ROOT / f"{project.group(1)}.json").exists() and (ROOT / f"{project.group(1)}.s4ext").exists()


@pytest.mark.parametrize("setting", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_pictures_of_the_catalog_exist_in_the_repository(setting):
    for address in cmake_setting(setting).split():
        start = cmake_setting("EXTENSION_HOMEPAGE").replace("github.com", "raw.githubusercontent.com") + "/main/"
        assert address.startswith(start) and (ROOT / address.removeprefix(start)).is_file(), address


# ---- what a reader meets


def test_the_readme_says_first_that_it_is_for_research_only():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert RESEARCH_ONLY in readme[:400]


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def links(page: Path) -> list[tuple[str, str]]:
    """Words and target of every Markdown link and picture outside of code blocks."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined_names(path: Path) -> set[str]:
    """Classes, functions and constants of a Python file, methods as ``Class.method``."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_of_a_page_lead_somewhere(page):
    for words, target in links(page):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        reached = page.parent / file if file else page
        assert reached.exists(), f"{name_of(page)}: [{words}]({target}) leads nowhere"
        assert not anchor or anchor in anchors(reached), f"{name_of(page)}: there is no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_that_names_code_leads_to_where_it_is_defined(page):
    for words, target in links(page):
        name = re.fullmatch(r"`([A-Za-z_]\w*(?:\.\w+)?)`", words)
        if name and target.endswith(".py"):
            assert name[1] in defined_names(page.parent / target), f"{name_of(page)}: {name[1]} is not in {target}"


def test_each_of_the_twelve_questions_about_the_code_leads_to_a_name_in_a_file():
    table = text_of(ROOT / "docs/architecture.md").split("## Question: file")[1]
    answers = [line.split("|")[2] for line in table.splitlines() if re.match(r"\| [A-Z].*\?", line)]
    assert len(answers) == 12
    for answer in answers:
        assert re.search(r"\[`[\w.]+`\]\([^)]+\.py\)", answer), answer


def test_every_picture_of_the_repository_is_shown_on_some_page():
    shown = {(page.parent / target).resolve() for page in PAGES for _, target in links(page)}
    pictures = [*(ROOT / "Resources/Screenshots").iterdir(), *(ROOT / "docs").glob("*.svg")]
    assert [name_of(picture) for picture in pictures if picture.resolve() not in shown] == []


def test_the_command_line_understands_every_command_of_the_pages():
    from DDSPSegmentationLib.service.arguments import command_parser

    commands = [
        line.replace("...", "").split()
        for page in PAGES
        for line in re.findall(r"ddsp-segmentation ([^`\n]+)", text_of(page))
    ]
    assert len(commands) > 8
    for command in commands:
        command_parser().parse_args(command)  # ends the test with its own sentence when it does not


def test_every_program_that_a_page_starts_is_there():
    started = {
        name for page in PAGES for name in re.findall(r"\b((?:Testing|DDSPSegmentation)/[\w/]+\.py)", text_of(page))
    }
    assert len(started) > 6
    assert [name for name in sorted(started) if not (ROOT / name).is_file()] == []


def test_changelog_and_citation_speak_of_this_version():
    from DDSPSegmentationLib import __version__

    citation = text_of(ROOT / "CITATION.cff")
    assert f"\nversion: {__version__}\n" in citation and "1801.10517" in citation and "PROMISE12" in citation
    assert f"\n## {__version__} - " in text_of(ROOT / "CHANGELOG.md")


def test_a_commit_is_checked_with_the_ruff_of_make_test():
    pinned = re.search(r"^ruff==(\S+)$", text_of(ROOT / "requirements/test.txt"), re.MULTILINE)
    assert pinned and f"rev: v{pinned[1]}\n" in text_of(ROOT / ".pre-commit-config.yaml")


def test_no_file_names_a_folder_of_somebodys_machine():
    pattern = re.compile(r"(?<![\w.$}-])/(?:work|tmp|root)" + r"(?:/|\b(?=['\"\s]))")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in committed_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
