# `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all lint format reproduce-mosi_modalities \
        reproduce-text_transfer reproduce-audio_transfer reproduce-mosei_loss_weights clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed: make PYTHON=<one>" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[dev]'
	-$(BIN)/msa-doctor fetch=true
	@touch $@

# The whole job on synthetic data: base models, adapters by every method, transfer, what was learnt.
DEMO_METHODS := random,centroid,label_matched,coral,mmd,sliced_wasserstein,task,task_shuffled,untrained,direct

demo: $(STAMP)
	$(BIN)/msa-prepare source=demo
	$(BIN)/msa-extract source=demo_raw extractor/text=minilm
	$(BIN)/msa-transfer -m experiment=demo_transfer method=$(DEMO_METHODS) seed=0,1,2,3,4 hydra/launcher=joblib
	$(BIN)/msa-predict "run=$$(ls -td runs/demo_transfer/method-task-seed0-* | head -n 1)" \
	    input=prepared/demo_raw/Raw/Video/Segmented/raw_0003_1.mp4 text='it was great'
	$(BIN)/msa-report 'runs=runs/demo_transfer/*' out=runs/demo_transfer.report 'compare=[test/mae]' \
	    'metrics=[test/mae,test/corr,test_text/mae]' subset=text groups=10

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m 'not slow and not realdata and not slurm and not browser'

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Sums in another order, by another number of threads, add up to other weights over 40 epochs.
reproduce-mosi_modalities reproduce-audio_transfer: export OMP_NUM_THREADS := 2

# Trains 35 runs on CMU-MOSI (MSA_DATA) and compares them with the committed results.
reproduce-mosi_modalities: $(STAMP)
	$(BIN)/msa-train -m experiment=mosi_modalities 'modalities=glob(*)' seed=0,1,2,3,4
	$(BIN)/msa-evaluate 'run=runs/mosi_modalities/*'
	$(BIN)/msa-report 'runs=runs/mosi_modalities/*' out=runs/mosi_modalities.report \
	    expect=experiments/mosi_modalities/results.csv tolerance=0.02

# Trains 90 transfers from MOSEI's to MOSI's transcripts (MSA_DATA), as above.
TEXT_TRANSFER := msa-transfer -m experiment=text_transfer seed=0,1,2,3,4 hydra/launcher=joblib

reproduce-text_transfer: $(STAMP)
	$(BIN)/msa-doctor fetch=glove_6b_50d > /dev/null
	$(BIN)/$(TEXT_TRANSFER) 'method=glob(*)'
	$(BIN)/$(TEXT_TRANSFER) method=task share=0.1,0.25,0.5
	$(BIN)/msa-report 'runs=runs/text_transfer/*' out=runs/text_transfer.report \
	    'metrics=[test/mae,test/corr,test/acc2_non0,test/f1_non0,test/acc7]' reference=direct \
	    groups=18 expect=experiments/text_transfer/results.csv tolerance=0.05

# Trains 30 runs on CMU-MOSEI's transcripts (MSA_DATA), as above.
reproduce-mosei_loss_weights: $(STAMP)
	$(BIN)/msa-doctor fetch=glove_6b_50d > /dev/null
	$(BIN)/msa-train experiment=mosei_loss_weights 'sweep=[loss_weights,seeds]' hydra/launcher=joblib
	$(BIN)/msa-evaluate 'run=runs/mosei_loss_weights/*'
	$(BIN)/msa-report 'runs=runs/mosei_loss_weights/*' out=runs/mosei_loss_weights.report \
	    'metrics=[train/loss,valid/mae,valid/corr,test/mae,test/corr,test/acc2_non0,test/acc7]' \
	    reference=loss.weights.absolute=0.3 \
	    expect=experiments/mosei_loss_weights/results.csv tolerance=0.02

# Trains 75 transfers between RAVDESS's actors (MSA_DATA) and compares them with the committed results.
reproduce-audio_transfer: $(STAMP)
	$(BIN)/msa-prepare source=ravdess
	$(BIN)/msa-transfer -m experiment=audio_transfer 'method=glob(*)' seed=0,1,2,3,4
	$(BIN)/msa-report 'runs=runs/audio_transfer/*' out=runs/audio_transfer.report \
	    'metrics=[test/acc,test/f1_macro]' 'compare=[test/acc]' reference=direct resample=clip \
	    groups=15 expect=experiments/audio_transfer/results.csv tolerance=0.05

clean:
	rm -rf $(VENV) runs prepared cache predictions
