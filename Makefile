# make demo   segments the bundled scan and says where the result is
# make test   checks style and runs the tests
# make screenshots   draws the panel in each of its states into Resources/Screenshots
# All set up .venv on first use, need no root rights, and start within seconds afterwards.
# PYTHON=/path/to/python3.12 names the Python to use, TORCH_INDEX=URL another index with PyTorch's CPU builds.
PYTHON_OF_VENV := .venv/bin/python
SAMPLE := DDSPSegmentation/Resources/SampleData/ProstateX-0000.nrrd
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
	@sh requirements/install.sh test
	@$(PYTHON_OF_VENV) -m ruff check .
	@$(PYTHON_OF_VENV) -m ruff format --check .
	@$(PYTHON_OF_VENV) -m mypy
	@$(PYTHON_OF_VENV) -m pytest -n 2 --dist loadfile

screenshots:
	@sh requirements/install.sh test
	@$(PYTHON_OF_VENV) Testing/screenshots.py

clean:
	rm -rf .venv demo
