"""Guided output: grammars that keep an answer to a JSON schema or a regular expression."""

from llm_service.guided.compiler import GrammarCompiler

__all__ = ["GrammarCompiler"]
