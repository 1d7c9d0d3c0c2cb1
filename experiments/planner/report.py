"""A plan as tables for a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table

from experiments.planner.plan_request import GIB, Assumptions, PlanRequest
from experiments.planner.planning import Plan
from experiments.planner.work import mean_response


def gb(size: float) -> str:
    return f"{size / GIB:,.1f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="", min_width=60)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def memory_table(plan: Plan) -> Table:
    request, memory = plan.request, plan.memory
    table = _table(
        f"One of {request.gpus} GPUs with {request.gpu_gb} GB ({gb(memory.capacity)} GiB usable), GiB",
        "part",
        "training",
        "generating",
    )
    for part in memory.parts:
        table.add_row(part.name, *("" if size == 0 else gb(size) for size in (part.training, part.generating)))
    table.add_section()
    table.add_row("total", gb(memory.training), gb(memory.generating), style="bold")
    table.add_row("left", gb(memory.capacity - memory.training), gb(memory.capacity - memory.generating))
    without = plan.without_checkpointing
    table.add_row(
        "total without gradient checkpointing",
        gb(without.training),
        "",
    )
    return table


def limits_table(plan: Plan) -> Table:
    table = _table("What fits", "GPU", "largest micro-batch, tokens", "KV pool, tokens a replica", "fits")
    for size, memory in plan.sizes.items():
        table.add_row(
            f"{size} GB", f"{memory.largest_micro_batch:,}", f"{memory.kv_tokens:,}", "yes" if memory.fits else "NO"
        )
    table.caption = f"micro-batch as configured: {plan.request.token_budget:,} tokens"
    return table


def work_table(plan: Plan, assume: Assumptions) -> Table:
    step, run, request = plan.step, plan.run, plan.request
    table = _table("Work", "", "a step", "the run")
    rows = (
        ("tokens", f"{step.tokens / 1e6:,.1f} M", f"{step.tokens * request.steps / 1e9:,.2f} G"),
        ("of which generated", f"{step.generated_tokens / 1e6:,.1f} M", ""),
        ("FLOPs, training and scoring", f"{step.training_flops + step.scoring_flops:.2e}", ""),
        ("generation", f"{step.generation_s:,.0f} s ({step.concurrent:.0f} at once a replica)", ""),
        ("old log-probabilities", f"{step.scoring_s:,.0f} s", ""),
        (f"{request.updates} updates", f"{step.update_s:,.0f} s", ""),
        ("all", f"{step.seconds / 60:,.1f} min", f"{run.training_h:,.1f} h"),
        (f"{run.evaluations} evaluations, avg@{request.test_samples}", "", f"{run.evaluation_h:,.1f} h"),
        ("wall time", "", f"{run.hours:,.1f} h"),
        ("GPU-hours", "", f"{run.gpu_hours:,.0f}"),
        ("sandbox calls", f"{step.sandbox_calls:,.0f}", ""),
        ("sandbox workers needed", f"{step.sandbox_workers:,.1f}", f"configured: {request.sandbox_slots} at once"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def storage_table(plan: Plan) -> Table:
    table = _table("Disk, GB", "", "size")
    for name, size in (
        ("a checkpoint", plan.storage.checkpoint),
        (f"checkpoints at most ({plan.request.checkpoints_kept} kept, best, one in writing)", plan.storage.checkpoints),
        ("records of the run, at most", plan.storage.records),
    ):
        table.add_row(name, f"{size / 1e9:,.2f}")
    return table


def assumptions_table(request: PlanRequest, assume: Assumptions) -> Table:
    table = _table("Assumptions (change one with assume.<name>=<value>)", "name", "value")
    for name, value in assume:
        if name == "response_tokens" and value is None:
            value = f"{mean_response(request, assume):,.0f} (40 % of data.max_response_length)"
        table.add_row(name, f"{value}")
    return table


def run_report(plan: Plan, assume: Assumptions) -> Group:
    shapes = plan.shapes
    head = "tied to the embedding" if shapes.head == 0 else f"{shapes.head:,}"
    parameters = _table(f"{plan.request.model}: {shapes.total:,} parameters", "", "parameters")
    parameters.add_row(f"each of {shapes.layers} layers", f"{shapes.layer:,}")
    parameters.add_row("embedding", f"{shapes.embedding:,}")
    parameters.add_row("output head", head)
    return Group(
        parameters,
        memory_table(plan),
        limits_table(plan),
        work_table(plan, assume),
        storage_table(plan),
        assumptions_table(plan.request, assume),
    )


def sweep_report(plans: list[tuple[str, Plan]]) -> Table:
    """One line a run, and their sum."""
    table = _table("The sweep", "run", "hours", "GPU-hours", "checkpoints, GB", "fits")
    for name, plan in plans:
        table.add_row(
            name,
            f"{plan.run.hours:,.1f}",
            f"{plan.run.gpu_hours:,.0f}",
            f"{plan.storage.checkpoints / 1e9:,.0f}",
            "yes" if plan.memory.fits else "NO",
        )
    table.add_section()
    table.add_row(
        f"{len(plans)} runs",
        f"{sum(plan.run.hours for _, plan in plans):,.1f}",
        f"{sum(plan.run.gpu_hours for _, plan in plans):,.0f}",
        f"{sum(plan.storage.checkpoints for _, plan in plans) / 1e9:,.0f}",
        "",
        style="bold",
    )
    return table


def show(report: Group | Table) -> None:
    Console(width=None if Console().is_terminal else 110, highlight=False).print(report)
