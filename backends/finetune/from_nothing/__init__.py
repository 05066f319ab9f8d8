"""A small image model that is trained from nothing.

    sizes.py          how large its parts are, by name
    kinds.py          the kinds: which stages each has, and the folder of what was learned
    stages.py         what a stage of training is; the losses of one batch, computed in parts
    autoencoder.py    stage: pictures to latents and back, and latents of mean 0 and deviation 1
    words.py          a tokenizer of the captions' own words
    denoiser.py       stage: latents from words
    unconditional.py  stage: pictures from noise
    gan.py            stage: pictures from noise, against a critic
    learner.py        AdamW, warm-up and cosine, clipping, the averaged weights
    training.py       the loop over the stages, as events
    state.py          what a checkpoint holds
    samples.py        grids and film strips as PNG
    model_card.py     the README of the result

All that is drawn by chance in a step comes from the seed and the number of the step alone: a
resume, a smaller micro-batch and a snapshot's samples change none of it. Reading these files
imports nothing heavy.
"""
