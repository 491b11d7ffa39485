"""Import and export of weights: models of Hugging Face transformers, without torch.

``import_hf`` and ``export_hf`` are the verbs. A family is a table of tensors and a translation of config.json in a file of
its own (``modernbert.py`` …). docs/interchange.md lists the checks of each family.
"""
