"""Lends the parameters of one function to another: ``inspect.signature``, editors and type checkers show them.

A list of parameters is written where people read it, and what does the work is handed what was given, by name.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def runs(work: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let ``work`` be what a function does that only has a name, parameters and a docstring."""

    def stand_for(stub: Callable[P, R]) -> Callable[P, R]:
        return functools.update_wrapper(work, stub)

    return stand_for


def takes_what(
    lender: Callable[Concatenate[Any, P], object], *, without: Container[str] = ()
) -> Callable[
    [Callable[Concatenate[S, ...], Coroutine[Any, Any, R]]], Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
]:
    """Give a verb that takes ``**options`` the parameters of ``lender``; its result stays its own.

    Type checkers cannot take a parameter out of a list: those ``without`` are hidden at run time only.
    """

    def lend(
        borrower: Callable[Concatenate[S, ...], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        dress(borrower, lender, returns=inspect.signature(borrower).return_annotation, without=without)
        return borrower

    return lend


def dress(
    borrower: Callable[..., Any], lender: Callable[..., Any], *, returns: object, without: Container[str] = ()
) -> None:
    """Show ``lender``'s parameters, and ``returns``, on ``borrower``."""
    signature = inspect.signature(lender)
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in without]
    vars(borrower)["__signature__"] = signature.replace(parameters=parameters, return_annotation=returns)
    kept = {name: annotation for name, annotation in lender.__annotations__.items() if name not in without}
    borrower.__annotations__ = {**kept, "return": returns}
