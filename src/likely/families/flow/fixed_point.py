"""x with x + g(x) = z, for a contraction g: Anderson's acceleration of x <- z - g(x), every row on its own.

With F(x) = z - g(x) and r = F(x) - x, the next x is F(x) - sum_j gamma_j dF_j, where gamma fits the last differences
of r to r. A row whose r grows forgets its differences and goes on plainly, which converges for any contraction; a row
that is there stays as it is, so that no row depends on how long its neighbours take.

"Iterative procedures for nonlinear integral equations" (Anderson, 1965); "Anderson acceleration for fixed-point
iterations" (Walker and Ni, 2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

from likely.nets.lipschitz import Smooth

WINDOW = 5
"""Differences that are kept."""
LIMIT = 1000
"""Evaluations of g at most."""


def fixed_point(g: Smooth, z: Tensor, name: str = "g") -> Tensor:
    """x (B, ...) with x + g(x) = z, differentiable in z and in the parameters of g.

    Raises `RuntimeError` with the residual where a row does not come within `accepted` of the dtype, which a g that
    is no contraction brings about.
    """
    with torch.no_grad():
        x, residual, _ = solve(g, z)
    worst = float(residual.max()) if len(z) else 0.0
    if not worst <= accepted(z.dtype):
        rows = int((~(residual <= accepted(z.dtype))).sum())
        raise RuntimeError(
            f"the inverse of {name} does not converge: |x + g(x) - z| = {worst:.1e} of 1 + |z| in {rows} of {len(z)} "
            f"rows after {LIMIT} evaluations; accepts {accepted(z.dtype):.0e}. Either z is not finite or the layers "
            "are over their Lipschitz coefficient: call after_step() when weights have changed"
        )
    if torch.is_grad_enabled() and (z.requires_grad or any(p.requires_grad for p in g.parameters())):
        return _with_gradient(g, z, x)
    return x


def aimed(dtype: torch.dtype) -> float:
    """The residual, relative to 1 + the largest |z| of a row, at which a row is there."""
    return (64 if dtype == torch.float64 else 8) * torch.finfo(dtype).eps


def accepted(dtype: torch.dtype) -> float:
    """The residual that is still no error, where rounding stands in the way."""
    return 1e-9 if dtype == torch.float64 else 1e-4


def solve(g: Smooth, z: Tensor, window: int = WINDOW) -> tuple[Tensor, Tensor, int]:
    """x, the relative residual of each row, and how often g was evaluated; `window` 0 is plain iteration."""
    rows, d = z.shape[0], z[:1].numel()
    if not rows:
        return z, z.new_zeros(0), 0
    flat = z.reshape(rows, d)
    scale = 1 + flat.abs().amax(1)
    window = min(window, d)
    apply = lambda x: flat - g(x.reshape(z.shape)).reshape(rows, d)  # noqa: E731
    x, aim = flat, aimed(z.dtype)
    new = apply(x)
    r = new - x
    size = r.abs().amax(1) / scale
    best_x, best = x, size
    waited = torch.zeros(rows, dtype=torch.int64, device=z.device)  # rounds since a row was last at its best
    d_new, d_r = z.new_zeros(rows, window, d), z.new_zeros(rows, window, d)
    count = 1
    for count in range(2, LIMIT + 1):
        moving = (best > aim) & ~((waited > 10) & (best <= accepted(z.dtype)))
        if not bool(moving.any()):
            return best_x.reshape(z.shape), best, count - 1
        step = new
        if window:
            step = step - (_fit(d_r, r)[:, None] @ d_new)[:, 0]
        x = torch.where(moving[:, None], step, x)
        before_new, before_r, before = new, r, size
        new = apply(x)
        r = new - x
        size = r.abs().amax(1) / scale
        if window:
            slot = (count - 2) % window
            d_new[:, slot], d_r[:, slot] = new - before_new, r - before_r
            worse = ~(size < before)
            d_new = torch.where(worse[:, None, None], 0.0, d_new)
            d_r = torch.where(worse[:, None, None], 0.0, d_r)
        better = moving & (size < best)
        waited = torch.where(better, 0, waited + 1)
        best_x, best = torch.where(better[:, None], x, best_x), torch.where(better, size, best)
    return best_x.reshape(z.shape), best, count


def _fit(d_r: Tensor, r: Tensor) -> Tensor:
    """gamma (B, m) that minimises |r - sum_j gamma_j dr_j|, by normal equations with a whiff of damping."""
    gram = d_r @ d_r.mT
    damping = gram.diagonal(dim1=1, dim2=2).amax(1) * (1e-12 if r.dtype == torch.float64 else 1e-6)
    eye = torch.eye(gram.shape[1], dtype=r.dtype, device=r.device)
    gram = gram + (damping + torch.finfo(r.dtype).tiny)[:, None, None] * eye
    return torch.linalg.solve_ex(gram, (d_r @ r[:, :, None]))[0][:, :, 0].nan_to_num(0.0, 0.0, 0.0)


def _with_gradient(g: Smooth, z: Tensor, x: Tensor) -> Tensor:
    """x with its gradient by the implicit function theorem: dx = (I + J)^-1 (dz - dg), J = dg/dx."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = g(at)

    def adjoint(gradient: Tensor) -> Tensor:
        """w with w + J^T w = the gradient."""
        w = gradient
        for _ in range(LIMIT):
            (back,) = torch.autograd.grad(value, at, w, retain_graph=True)
            new = gradient - back
            if bool((new - w).abs().max() <= aimed(w.dtype) * (1 + new.abs().max())):
                return new
            w = new
        return w

    x = z - g(x)
    x.register_hook(adjoint)
    return x
