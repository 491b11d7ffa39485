"""Load a trained model and use it: encoder, classifier, translator, aligner, miner."""
