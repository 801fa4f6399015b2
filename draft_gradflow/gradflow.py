# %% [parameters]
# gradient flow of fully connected tanh networks (6.1, 6.2, 6.3)
flow_seeds = [0, 1, 2, 3, 4]  # seeds of the initialisation
flow_size = 14  # image size in pixels, after average pooling
flow_classes = 10  # classes
flow_ns = [25, 50, 100, 200]  # training images (6.1)
flow_depths = [1, 2, 3, 4]  # hidden layers (6.2)
flow_widths = [16, 64, 256]  # units of each hidden layer (6.3)
flow_n = 100  # training images where their number is not varied
flow_depth = 3  # hidden layers where they are not varied
flow_width = 64  # units of each hidden layer where they are not varied
flow_level = 0.05  # training loss at which S(end) is read (6.1, 6.2)
flow_level_width = 0.1  # training loss at which S(end) is read (6.3)
flow_permuted = 0.3  # share of the labels that are permuted, to make them hard to tell (6.3)
flow_stride = 1.5  # time per step of the integrator * S(0)
flow_steps = 4000  # steps of the integrator after which a run stops in any case
flow_linear_steps = 10  # steps of the linearised networks (control)

# %% [markdown]
# ## Data, depth and width decide how far the sharpness rises (6.1, 6.2, 6.3)
#
# Gradient descent can meet its edge only if the sharpness would rise to it. How far it rises left to
# itself is a property of *gradient flow*, $\dot w = -\nabla L(w)$, which knows no step size. Figures
# 18, 17 and 14 of 001 follow $S(w(t))$ for data sets of several sizes and for networks of several
# depths and widths: more data, more layers and fewer units make the sharpness rise further. Here the
# same for fully connected tanh networks with PyTorch's (the standard) parameterisation and squared
# error, until the training loss has fallen to a fixed level: $S(\mathrm{end})$ is read there, on the
# line in $\log L$ between two measurements. Five seeds; judged is the order of the means. Depth
# and width also change $S(0)$, so for them it is the ratio $S(\mathrm{end})/S(0)$.

# %%
base = Problem(data, flow_n, flow_classes, flow_size, "fully_connected")
permuted = partial(with_permuted_labels, data, flow_n, flow_classes, flow_size, flow_permuted)


def flow_run(problem, depth, width, level=flow_level, steps=flow_steps):
    problem = replace(problem, options={"width": (width,) * depth})
    return dict(problem=problem, level=level, steps=steps, stride=flow_stride)


plan = {}
for n in flow_ns:
    plan["n", n] = flow_run(replace(base, n=n), flow_depth, flow_width)
for depth in flow_depths:
    plan["depth", depth] = flow_run(base, depth, flow_width)
for width in flow_widths:
    plan["width", width] = flow_run(base, flow_depth, width)
    hard = replace(base, data=permuted)
    plan["hard", width] = flow_run(hard, flow_depth, width, flow_level_width)
for kind in ("depth", "width"):  # the controls
    linear = {"linearised": True, "steps": flow_linear_steps}
    for (name, value), keywords in list(plan.items()):
        if name == kind:
            plan[f"{kind}, linear", value] = keywords | linear
configurations = {
    (*key, seed): keywords | {"seed": seed}
    for key, keywords in plan.items()
    for seed in flow_seeds
}
flows = sweep(run_flow, configurations, "gradient flow")
flow_table = pd.concat(flows, names=["run", "value", "seed", "row"]).reset_index()
start = flow_table[flow_table.row == 0].pivot(
    index="seed", columns=["run", "value"], values="sharpness"
)
ends = {  # S at a loss: one row a seed, one column a run
    level: flow_table.groupby(["seed", "run", "value"])
    .apply(at_loss, level, include_groups=False)
    .unstack(["run", "value"])
    for level in (flow_level, flow_level_width)
}


def flow_curves(axes, kind, settings, level, colors):
    for (value, _), table in flow_table[flow_table.run == kind].groupby(["value", "seed"]):
        look = {"color": colors[settings.index(value)], "lw": 0.9, "alpha": 0.8}
        axes[0].plot(table.time, table.sharpness, **look)
        axes[1].plot(table.loss, table.sharpness / table.sharpness.iloc[0], **look)
    axes[0].set(xlabel="time", ylabel="sharpness $S$", ylim=(0, None))
    axes[1].set(xscale="log", xlim=(0.6, 0.8 * level), xlabel="training loss")


def flow_summary(ax, settings, values, color, label, marker="o"):
    place = np.arange(len(settings)) + np.linspace(-0.12, 0.12, len(values))[:, None]
    ax.plot(place, values, marker, color=color, ms=4, alpha=0.5, mew=0)
    ax.plot(values.mean().to_numpy(), color=color, marker=marker, ms=7, label=label)
    ax.set_xticks(range(len(settings)), settings)


# %% [markdown]
# ### More data (6.1)

# %%
shades = [*by_step_size(flow_ns).values()]
fig, axes = panels(1, 3, height=3.2)
flow_curves(axes, "n", flow_ns, flow_level, shades)
more = ends[flow_level]["n"]
at_start = start["n"]
for color, n in zip(shades, flow_ns, strict=True):
    axes[0].plot([], [], color=color, label=f"n = {n}")
flow_summary(axes[2], flow_ns, more, BLUE, f"at the loss {flow_level}")
flow_summary(axes[2], flow_ns, at_start, ORANGE, "at the start (control)", "s")
axes[0].legend(loc="lower right")
axes[1].axvline(flow_level, color=BLACK, ls="--", lw=1)
axes[1].set(ylabel="$S$ / $S$(0)", title="sharpening as the loss falls")
axes[2].set(xlabel="training images", ylabel="sharpness $S$", ylim=(0, 1.25 * more.max().max()))
axes[2].legend(loc="upper left")
axes[0].set_title("gradient flow, five seeds each")
axes[2].set_title("dots: seeds; line: their mean")
figures.save(fig, "data_size", flow_table[flow_table.run == "n"])

# %% [markdown]
# **What to see:** all sizes start alike (orange: $S(0)$ does not rise with $n$) and with more images
# the same loss takes longer to reach and costs more sharpness. Middle: the curves part early and stay
# apart, so the order does not hang on the loss at which they are read (dashed).

# %%
claims.add(
    "6.1",
    "more data, more progressive sharpening",
    "001 fig 18",
    [
        Check(
            f"S at the loss {flow_level}: least ratio of neighbouring means over n, a seed "
            "left out (control: S(0))",
            rise_of_means(more),
            low=1.05,
            control=rise_of_means(at_start),
        )
    ],
    flow_seeds,
)
print(more.round(1).to_string(), "\nmean", more.mean().round(1).to_dict())
print("seeds in which S rises at every n:", int((more.diff(axis=1).iloc[:, 1:] > 0).all(axis=1).sum()))

# %% [markdown]
# ### More layers (6.2)

# %%
shades = [*by_step_size(flow_depths).values()]
fig, axes = panels(1, 3, height=3.2)
flow_curves(axes, "depth", flow_depths, flow_level, shades)
deeper = ends[flow_level]["depth"] / start["depth"]
linear_end = flow_table.groupby(["seed", "run", "value"]).sharpness.last()
linear = {
    kind: linear_end.unstack(["run", "value"])[f"{kind}, linear"] / start[f"{kind}, linear"]
    for kind in ("depth", "width")
}
for color, depth in zip(shades, flow_depths, strict=True):
    axes[1].plot([], [], color=color, label=f"{depth} hidden")
flow_summary(axes[2], flow_depths, deeper, BLUE, f"at the loss {flow_level}")
flow_summary(axes[2], flow_depths, linear["depth"], ORANGE, "linearised (control)", "s")
axes[1].legend(loc="upper left")
axes[1].axvline(flow_level, color=BLACK, ls="--", lw=1)
axes[1].set(ylabel="$S$ / $S$(0)", title="sharpening as the loss falls")
axes[2].set(xlabel="hidden layers", ylabel="$S$(end) / $S$(0)", ylim=(0, 1.25 * deeper.max().max()))
axes[2].legend(loc="upper left")
axes[0].set_title("gradient flow, five seeds each")
axes[2].set_title("dots: seeds; line: their mean")
figures.save(fig, "depth", flow_table[flow_table.run.isin(["depth", "depth, linear"])])

# %% [markdown]
# **What to see:** the deeper the network, the flatter it starts (left) and the more often its sharpness
# doubles on the way to the same loss (middle). One hidden layer hardly sharpens at all. The linearised
# networks (orange: the linear model at the start) have a constant Hessian and cannot.

# %%
claims.add(
    "6.2",
    "deeper networks sharpen more",
    "001 fig 17",
    [
        Check(
            f"S(end)/S(0) at the loss {flow_level}: least ratio of neighbouring means over "
            "the depth, a seed left out (control: linearised)",
            rise_of_means(deeper),
            low=1.05,
            control=rise_of_means(linear["depth"]),
        )
    ],
    flow_seeds,
)
print(deeper.round(2).to_string(), "\nmean", deeper.mean().round(2).to_dict())
print("seeds in order:", int((deeper.diff(axis=1).iloc[:, 1:] > 0).all(axis=1).sum()))

# %% [markdown]
# ### Fewer units (6.3), and when not

# %%
shades = [GREEN, PINK, BLUE]
fig, axes = panels(1, 3, height=3.4)
ratio = {kind: {l: e[kind] / start[kind] for l, e in ends.items()} for kind in ("width", "hard")}
for ax, kind, title in (
    (axes[0], "width", "true labels"),
    (axes[1], "hard", f"{flow_permuted:.0%} of the labels permuted"),
):
    flow_curves((fig.add_axes([0, 0, 0, 0], visible=False), ax), kind, flow_widths, flow_level, shades)
    ax.axvline(flow_level_width, color=BLACK, ls="--", lw=1)
    ax.set(title=title, ylabel="$S$ / $S$(0)")
figures.save(fig, "width", flow_table[flow_table.run.isin(["width", "hard", "width, linear"])])
