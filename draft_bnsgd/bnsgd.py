# %% [parameters]
# which step sizes reach the edge (6.4)
map_n = 64  # training images
map_size = 7  # image size in pixels, after average pooling
map_fc = [32, 32]  # hidden units of the fully connected nets
map_cnn = [8, 16]  # channels of the convolutions
map_nets = [
    "FC tanh",
    "FC relu",
    "FC elu",
    "CNN tanh average",
    "CNN relu average",
    "CNN elu max",
]  # kind, activation and pooling
map_etas = [0.05, 0.15, 0.35, 3.0]  # step sizes; the first is too small, the last too large
map_judged = 0.35  # step size at which every arch must be at the edge
map_steps = 300  # steps, for every step size: the budget
map_every = 25  # steps between measurements of the sharpness

# batch normalisation (6.5)
bn_n = 64  # training images; all of them are the batch that normalises
bn_size = 7  # image size in pixels
bn_vgg = [[8], [16, 16]]  # VGG: channels of the convolutions of each stage
bn_cnn = [[16], [32]]  # CNN: one convolution in each stage
bn_pooling = "average"  # pooling
bn_etas = [
    0.05,
    0.15,
    0.18,
]  # step sizes; the first is too small for the budget: the control
bn_steps = 400  # steps
bn_settle = 60  # steps of the first transient, in which the sharpness first falls
bn_every = 20  # steps between measurements of the sharpness
bn_gains = [0.3333, 8.0]  # fan-in * variance of the first weights: PyTorch's 1/3; else 2
bn_gain_steps = 120  # steps with these, at the second step size
bn_gain_every = 10  # steps between measurements there

# stochastic gradient descent (6.6)
sgd_n = 128  # training images
sgd_size = 7  # image size in pixels
sgd_width = [32, 32]  # hidden units
sgd_batches = [4, 16, 32, 128]  # batch sizes; the last is the full batch
sgd_etas = [0.25, 0.3, 0.4]  # step sizes
sgd_time = 80.0  # training time = steps * eta
sgd_every = 20  # steps between measurements of the sharpness
sgd_control = 0.4  # step size of the control, the full batch
sgd_orders = 3  # in so many orders of its images

# %% [markdown]
# ## Step sizes, batch normalisation, mini-batches: the runs (6.4, 6.5, 6.6)

# %%
runs = {}
for arch in map_nets:
    kind, act, *pool = arch.split()
    options = {"activation": act, "width": tuple(map_fc if kind == "FC" else map_cnn)}
    options |= {"pooling": pool[0]} if pool else {}
    model = "fully_connected" if kind == "FC" else "convolutional"
    problem = Problem(data, map_n, 10, map_size, model, options)
    for eta in map_etas:
        runs["map", arch, eta] = (problem, eta, map_steps, map_every)
for arch, stages in (("VGG", bn_vgg), ("CNN", bn_cnn)):
    options = {"stages": stages, "pooling": bn_pooling}
    problem = Problem(data, bn_n, 10, bn_size, "vgg", options)
    for eta in bn_etas:
        runs["bn", arch, eta] = (problem, eta, bn_steps, bn_every)
plan = {
    (*key, seed): dict(problem=p, optimizer=GradientDescent(eta), steps=steps, every=every)
    for key, (p, eta, steps, every) in runs.items()
    for seed in seeds
}
for arch, stages in (("VGG", bn_vgg), ("CNN", bn_cnn)):
    for gain in bn_gains:
        options = {"stages": stages, "pooling": bn_pooling, "conv_gain": gain}
        plan["gain", arch, gain, seeds[0]] = dict(
            problem=Problem(data, bn_n, 10, bn_size, "vgg", options),
            optimizer=GradientDescent(bn_etas[1]),
            steps=bn_gain_steps,
            every=bn_gain_every,
        )
options = {"width": tuple(sgd_width), "activation": "tanh"}
sgd = Problem(data, sgd_n, 10, sgd_size, "fully_connected", options)
draws = [("sgd", eta, size, None) for eta in sgd_etas for size in sgd_batches]
draws += [("order", sgd_control, sgd_n, order) for order in range(sgd_orders)]
for name, eta, size, order in draws:
    for seed in seeds:
        shuffle = seed if order is None else order
        plan[name, eta, size if order is None else order, seed] = dict(
            problem=sgd,
            optimizer=MiniBatch(GradientDescent(eta), size, sgd_n, shuffle),
            steps=round(sgd_time / eta),
            every=sgd_every,
        )
trained = sweep(run, {k: v | {"seed": k[-1]} for k, v in plan.items()}, "training")

# %% [markdown]
# ## Reasonable step sizes reach the edge (6.4)
#
# "For any reasonable step size" the source says: which are? Every net here gets the same number
# of steps and a range of step sizes. A cell holds the median of $S\eta/2$ over the second half
# of the run, and the step at which $S$ first passes $2/\eta$ (medians over the seeds).

# %%
cells = pd.DataFrame(
    [
        dict(zip(("arch", "eta", "seed"), key[1:], strict=True))
        | {"start": table.sharpness[0] * key[2] / 2, "median": late(table, "sharpness")}
        | {"crossing": crossing(table), "diverged": table.diverged.any()}
        for key, table in trained.items()
        if key[0] == "map"
    ]
)
filled = cells.fillna({"crossing": np.inf}).drop(columns="seed")  # not reached: later
medians = filled.groupby(["arch", "eta"], sort=False).median()
shades = dict(zip(map_nets, (BLACK, BLUE, SKY, ORANGE, RED, GREEN), strict=False))
colors = LinearSegmentedColormap.from_list("edge", [BLUE, "white", RED])
colors.set_bad("0.85")
fig, (grid, ax) = panels(1, 2, height=4.0, gridspec_kw={"width_ratios": [1, 1.1]})
shown = medians["median"].unstack(sort=False)
grid.imshow(shown, cmap=colors, norm=TwoSlopeNorm(1, 0, 2), aspect="auto")
for i, arch in enumerate(shown.index):
    for j, eta in enumerate(shown.columns):
        value, at, gone = medians.loc[(arch, eta), ["median", "crossing", "diverged"]]
        when = "from above" if at == 0 else f"step {at:.0f}"
        text = f"{value:.2f}\n" + (when if np.isfinite(at) else "not reached")
        style = {"color": "white" if value < 0.35 else BLACK, "fontsize": "small"}
        grid.text(j, i, "diverges" if gone else text, ha="center", va="center", **style)
grid.set_xticks(range(len(map_etas)), map_etas)
for label, arch in zip(
    grid.set_yticks(range(len(map_nets)), map_nets), map_nets, strict=True
):
    label.label1.set(color=shades[arch], fontweight="bold")
grid.grid(False)
grid.set(title="median $S\\eta/2$; first step beyond the edge", xlabel="step size $\\eta$")
for arch, seed in product(map_nets, seeds):
    seen = measured(trained["map", arch, map_judged, seed])
    style = look(seed, seeds) | {"color": shades[arch]}
    ax.plot(seen.step, seen.sharpness / seen.mss, **style)
threshold(ax, 1, "edge")
title = f"sharpness in units of 2/$\\eta$, $\\eta$ = {map_judged}"
ax.set(title=title, xlabel="step", ylabel="$S\\eta/2$", ylim=(0, 2))
figures.save(fig, "step_sizes", cells)

# %% [markdown]
# **What to see:** blue is below the edge, white on it, pale red just above. With the smallest
# step there is no time to get there; with the largest, training diverges at once. In between, the
# larger the step the earlier the crossing, whatever the architecture, activation and pooling,
# and then all stay at the edge (right, in the colours of the names; bold: the first seed). What
# starts above the edge, most of all the net with max pooling, comes down to it.

# %%
lowest = cells.groupby(["eta", "seed"])["median"].agg(["min", "max"])
least, most = map_etas[0], map_etas[-1]
claims.add(
    "6.4",
    "reasonable step sizes reach the edge, whatever the architecture, activation and pooling",
    "001 EoS occurs at reasonable step size",
    [
        Check(
            f"least median S*eta/2 of {len(map_nets)} nets, eta = {map_judged}",
            lowest.loc[map_judged, "min"],
            low=0.9,
            control=lowest.loc[least, "max"],
        ),
        Check("the largest one", lowest.loc[map_judged, "max"], high=1.3),
        Check(
            f"share of the nets that diverge, eta = {most}",
            cells[cells.eta == most].groupby("seed").diverged.mean(),
            low=0.8,
            control=cells[cells.eta == map_judged].groupby("seed").diverged.mean(),
        ),
    ],
    seeds,
)
print(medians.drop(columns="diverged").unstack("eta").round(2).to_string(na_rep="-"))

# %% [markdown]
# ## With batch normalisation, too (6.5)
#
# Figure 90 of the source is a VGG with batch normalisation. Here: a small one (convolution,
# normalisation, ReLU; stages end with average pooling), and a CNN with one wider convolution in
# each stage. All training images are the batch that normalises, there are no running averages,
# and so the loss is a function of the parameters like any other.

# %%
fig, axes = panels(2, 3, height=2.8, gridspec_kw={"width_ratios": [1, 1.15, 1]})
colors, rows = dict(zip(bn_etas, (BLACK, BLUE, RED), strict=False)), []
for (losses, ax, start), arch in zip(axes, ("VGG", "CNN"), strict=True):
    for eta, seed in product(bn_etas, seeds[::-1]):
        table, style = trained["bn", arch, eta, seed], look(seed, seeds)
        style, seen = style | {"color": colors[eta]}, measured(table)
        ax.plot(seen.step, seen.sharpness, **style)
        rows.append(seen.assign(arch=arch, eta=eta, seed=seed))
        if seed == seeds[0]:
            losses.semilogy(table.step, table.loss, **style, label=f"$\\eta$ = {eta}")
            losses.axvline(crossing(table), color=colors[eta], ls=":", lw=1)
    for eta in bn_etas[1:]:
        threshold(ax, 2 / eta, f"2/{eta}", colors[eta])
    starts = {g: trained["gain", arch, g, seeds[0]] for g in bn_gains}
    starts[2.0] = trained["bn", arch, bn_etas[1], seeds[0]]
    for gain, color in zip(sorted(starts), (ORANGE, BLUE, GREEN), strict=True):
        seen = measured(starts[gain])
        start.plot(seen.step, seen.sharpness, color=color, label=f"{gain:.2g}")
        rows.append(seen.assign(arch=arch, eta=bn_etas[1], gain=gain, seed=seeds[0]))
    threshold(start, 2 / bn_etas[1], f"2/{bn_etas[1]}", BLUE)
    text = [f"{g}: {t.sharpness[0]:.1f} ({t.loss[0]:.3f})" for g, t in starts.items()]
    print(f"{arch}: S (and loss) at the start, by fan-in * variance: {', '.join(text)}")
    losses.set(title=f"{arch}: training loss", xlabel="step", ylabel="loss")
    ax.set(title="sharpness", xlabel="step", ylabel="$S$", ylim=(0, 2.7 / bn_etas[1]))
    title = f"by the first weights, $\\eta$ = {bn_etas[1]}"
    start.set(title=title, xlabel="step", ylabel="$S$")
    start.set(xlim=(-3, bn_gain_steps), ylim=(0, 6 / bn_etas[1]))
    start.legend(title="fan-in × variance", loc="upper right")
axes[0, 0].legend(loc="lower left")
figures.save(fig, "batch_norm", pd.concat(rows))

# %% [markdown]
# **What to see:** as without normalisation: each $S$ climbs to its dashed $2/\eta$ and stays
# there, and from the crossing (dotted) the loss is no longer smooth. The smallest step does not
# get that far.
#
# **The first weights matter** (right: fan-in × variance of the convolutions' weights).
# Normalised, a convolution does not care how long its weights are, but the sharpness does: with
# the *same* outputs and the same loss, shorter weights start sharper. PyTorch's default, 1/3
# (orange), starts far above the edge, so that nothing can rise to it; a step small enough to
# start below needs a very long run. Long weights (green) start flat and hardly sharpen. All
# other runs here start from the usual He initialisation, 2 (blue).

# %%
checks = []
for arch, eta in product(("VGG", "CNN"), bn_etas[1:]):
    tables = [trained["bn", arch, eta, seed] for seed in seeds]
    slow = [late(trained["bn", arch, bn_etas[0], seed], "sharpness") for seed in seeds]
    settled = [hover(table[table.step > bn_settle], after=0) for table in tables]
    name = f"median S*eta/2 from the crossing on, {arch}, eta = {eta}"
    checks.append(Check(name, settled, 0.9, 1.3, control=slow))
    began = [table.sharpness[: bn_settle + 1].min() * eta / 2 for table in tables]
    name = f"lowest S*eta/2 of the first {bn_settle} steps, {arch}, eta = {eta}"
    checks.append(Check(name, began, high=1))
claims.add(
    "6.5",
    "a VGG and a CNN with batch normalisation are at the edge, too",
    "001 fig 90",
    checks,
    seeds,
)

# %% [markdown]
# ## Stochastic gradient descent stays below (6.6)
#
# Figure 29 of the source: mini-batches of several sizes, drawn without replacement in a new order
# each epoch. $S$ is always that of the *whole* training loss.

# %%
fig, axes = panels(1, len(sgd_etas) + 1, height=3.2)
colors, rows, book = by_step_size(sgd_batches), [], {}
for ax, eta in zip(axes, sgd_etas, strict=False):
    for size, seed in product(sgd_batches, seeds[::-1]):
        table = trained["sgd", eta, size, seed]
        seen, book[eta, size, seed] = measured(table), late(table, "sharpness")
        label = f"{size}" + " (all)" * (size == sgd_n) if seed == seeds[0] else None
        style = look(seed, seeds) | {"color": colors[size], "label": label}
        ax.plot(seen.step, seen.sharpness, **style)
        rows.append(seen.assign(eta=eta, batch=size, seed=seed))
    threshold(ax, 2 / eta, "2/$\\eta$")
    ax.set(title=f"$\\eta$ = {eta}", xlabel="step", ylim=(0, 3 / eta))
book = pd.Series(book).rename_axis(["eta", "batch", "seed"])
for eta, color, line in zip(
    sgd_etas, (BLUE, ORANGE, RED), ("o-", "s-", "^-"), strict=False
):
    band(axes[-1], book[eta].droplevel("seed"), color, f"$\\eta$ = {eta}", line)
axes[-1].set_xscale("log", base=2)
axes[-1].set_xticks(sgd_batches, sgd_batches)
threshold(axes[-1], 1, "edge")
axes[-1].set(title="where $S\\eta/2$ settles", xlabel="batch size", ylim=(0, 1.3))
axes[-1].legend(loc="lower right")
axes[0].set_ylabel("sharpness $S$")
handles, labels = axes[0].get_legend_handles_labels()
fig.legend(handles, labels, title="batch size", loc="outside lower center", ncols=4)
figures.save(fig, "sgd", pd.concat(rows))

# %% [markdown]
# **What to see:** the full batch rises to the dashed edge and stays just above. The smaller the
# batch, the lower $S$ settles, at every step size; with the smallest it falls from the start and
# ends at about half of $2/\eta$ or less. A quarter of the images is nearly the full batch: at the
# largest step it is on the edge.


# %%
def smallest_rise(settled):
    """The smallest step up from one entry to the next, for each seed."""
    return settled.unstack("seed").diff().min()


by_size = pd.concat([smallest_rise(book[eta]) for eta in sgd_etas], axis=1)
orders = {
    (order, seed): late(trained["order", sgd_control, order, seed], "sharpness")
    for order, seed in product(range(sgd_orders), seeds)
}
orders = smallest_rise(pd.Series(orders).rename_axis(["order", "seed"]))
outer = {size: book.xs(size, level="batch").unstack("seed") for size in sgd_batches}
claims.add(
    "6.6",
    "SGD: the smaller the batch, the further below 2/eta the sharpness settles",
    "001 fig 29",
    [
        Check(
            f"smallest rise of the median S*eta/2 from one of the batch sizes {sgd_batches} "
            "to the next, over all eta (control: the full batch, reshuffled)",
            by_size.min(axis=1),
            low=0.02,
            control=orders,
        ),
        Check(
            "highest median S*eta/2, smallest batch", outer[sgd_batches[0]].max(), high=0.7
        ),
        Check("lowest median S*eta/2, full batch", outer[sgd_n].min(), low=0.95),
    ],
    seeds,
)
print(book.unstack("seed").round(2).to_string())
parts = {}
for key, table in trained.items():
    parts[key[0]] = parts.get(key[0], 0) + table.cpu_seconds.max()
print("CPU seconds:", {name: round(seconds) for name, seconds in parts.items()})
