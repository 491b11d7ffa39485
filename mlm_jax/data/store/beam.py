"""Prepare as an Apache Beam pipeline: shard 0 trains the vocabulary, the others follow in parallel, one worker joins them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.common.extras import install_command
from mlm_jax.data.store.prepare import join, prepare_shard


def run(config: ConfigDict, folder: str | Path, count: int, arguments: Sequence[str] = ()) -> None:
    """Make the token store with a Beam runner. A pipeline that is run again makes only the shards that are missing.

    Args:
      config: the run's config; every worker must be able to read its files.
      folder: folder of the store, which every worker can reach.
      count: number of shards.
      arguments: Beam's own arguments, such as ``--runner=DataflowRunner``.

    Raises:
      UserError: Apache Beam is not installed, or as :func:`mlm_jax.data.store.prepare.prepare`.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("Apache Beam is not installed", remedy=install_command("beam")) from error

    def shard(index: int, after: Sequence[int] = ()) -> int:
        del after  # an input only so that Beam makes shard 0, and with it the vocabulary, first
        prepare_shard(config, folder, index, count, progress=False)
        return index

    def joined(_: int, shards: Sequence[int]) -> str:
        assert len(shards) == count - 1, "Beam hands over every shard but the first"
        return join(config, folder, count, progress=False)

    with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
        first = pipeline | "shard 0" >> beam.Create([0]) | "vocabulary" >> beam.Map(shard)
        others = pipeline | "shards" >> beam.Create(range(1, count)) | beam.Reshuffle()
        rest = others | "prepare" >> beam.Map(shard, beam.pvalue.AsList(first))
        first | "join" >> beam.Map(joined, beam.pvalue.AsList(rest))
