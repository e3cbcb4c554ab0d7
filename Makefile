# make demo   segments the bundled scan and says where the result is
# make test   checks style and types and runs the tests, some of them with the numpy of Slicer 5.8 too
# make screenshots   draws the panel in each of its states into Resources/Screenshots
# All set up .venv on first use, need no root rights, and start within seconds afterwards.
# PYTHON=/path/to/python3.12 names the Python to use, TORCH_INDEX=URL another index with PyTorch's CPU builds.
PYTHON_OF_VENV := .venv/bin/python
SAMPLE := DDSPSegmentation/Resources/SampleData/ProstateX-0000.nrrd
# What numpy 1.26 of Slicer 5.8 could break: arithmetic, the processes that do it, and what reads and writes DICOM.
NUMPY1_NAMES := training finetuning preprocessing conversion worker dicom_series dicom_grouping dicom_results
NUMPY1_TESTS := $(NUMPY1_NAMES:%=Testing/Python/test_%.py)
unexport PYTHONHOME PYTHONPATH

.PHONY: help demo test screenshots clean
help:
	@sed -n '1,/^[^#]/s/^# //p' Makefile

demo:
	@sh requirements/install.sh run
	@.venv/bin/ddsp-segmentation segment $(SAMPLE) --output demo
	@$(PYTHON_OF_VENV) Testing/demo.py demo

test: export QT_QPA_PLATFORM := offscreen
test: export OMP_NUM_THREADS := 1
test:
	@sh requirements/install.sh numpy1
	@$(PYTHON_OF_VENV) -m ruff check .
	@$(PYTHON_OF_VENV) -m ruff format --check .
	@$(PYTHON_OF_VENV) -m mypy
	@.venv-numpy1/bin/python -m pytest -q -n 2 --dist loadfile $(NUMPY1_TESTS)
	@$(PYTHON_OF_VENV) -m pytest -n 2 --dist loadfile

screenshots:
	@sh requirements/install.sh test
	@$(PYTHON_OF_VENV) Testing/screenshots.py

clean:
	rm -rf .venv .venv-numpy1 build demo dist
