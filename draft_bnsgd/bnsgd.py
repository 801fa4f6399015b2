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
    "CNN elu average",
    "CNN elu max",
]  # kind, activation and pooling
map_etas = [0.05, 0.15, 0.3, 3.0]  # step sizes; the first is too small, the last too large
map_judged = 0.3  # step size at which every net must be at the edge
map_steps = 300  # steps, for every step size: the budget
map_every = 25  # steps between measurements of the sharpness

# batch normalisation (6.5)
bn_n = 64  # training images; all of them are the batch that normalises
bn_size = 7  # image size in pixels
bn_vgg = [[8], [16, 16]]  # VGG: channels of the convolutions of each stage
bn_cnn = [[16], [32]]  # CNN: one convolution in each stage
bn_pooling = "average"  # pooling
bn_etas = [0.05, 0.15, 0.18]  # step sizes; the first is too small for the budget: the control
bn_steps = 400  # steps
bn_every = 20  # steps between measurements of the sharpness
bn_gains = [0.3333, 2.0, 8.0]  # fan-in * variance of the first weights; PyTorch: 1/3; used: 2
bn_gain_eta = 0.02  # step size where these are compared
bn_gain_steps = 60  # steps there

# stochastic gradient descent (6.6)
sgd_n = 128  # training images
sgd_size = 7  # image size in pixels
sgd_width = [32, 32]  # hidden units
sgd_batches = [4, 16, 32, 128]  # batch sizes; the last is the full batch
sgd_etas = [0.2, 0.3, 0.4]  # step sizes
sgd_time = 100.0  # training time = steps * eta
sgd_every = 20  # steps between measurements of the sharpness
sgd_control = 0.4  # step size of the control

# %% [markdown]
# ## Step sizes, batch normalisation, mini-batches: the runs (6.4, 6.5, 6.6)

# %%
runs = {}
for net in map_nets:
    kind, act, *pool = net.split()
    options = {"activation": act, "width": tuple(map_fc if kind == "FC" else map_cnn)}
    options |= {"pooling": pool[0]} if pool else {}
    model = "fully_connected" if kind == "FC" else "convolutional"
    problem = Problem(data, map_n, 10, map_size, model, options)
    for eta in map_etas:
        runs["map", net, eta] = (problem, eta, map_steps, map_every)
for net, stages in (("VGG", bn_vgg), ("CNN", bn_cnn)):
    options = {"stages": stages, "pooling": bn_pooling}
    problem = Problem(data, bn_n, 10, bn_size, "vgg", options)
    for eta in bn_etas:
        runs["bn", net, eta] = (problem, eta, bn_steps, bn_every)
plan = {
    (*key, seed): dict(problem=p, optimizer=GradientDescent(eta), steps=steps, every=every)
    for key, (p, eta, steps, every) in runs.items()
    for seed in seeds
}
for net, stages in (("VGG", bn_vgg), ("CNN", bn_cnn)):
    for gain in bn_gains:
        options = {"stages": stages, "pooling": bn_pooling, "conv_gain": gain}
        plan["gain", net, gain, seeds[0]] = dict(
            problem=Problem(data, bn_n, 10, bn_size, "vgg", options),
            optimizer=GradientDescent(bn_gain_eta),
            steps=bn_gain_steps,
            every=5,
        )
options = {"width": tuple(sgd_width), "activation": "tanh"}
sgd = Problem(data, sgd_n, 10, sgd_size, "fully_connected", options)
draws = [("sgd", eta, size, None) for eta in sgd_etas for size in sgd_batches]
draws += [("order", sgd_control, sgd_n, order) for order in range(len(sgd_batches))]
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
# "For any *reasonable* step size" the source says. What is reasonable? Every net here gets the
# same number of steps and a range of step sizes. In each cell: the median of $S\eta/2$ over the
# second half of the run, and below it the step at which $S$ first passes $2/\eta$.

# %%
cells = pd.DataFrame(
    [
        dict(zip(("net", "eta", "seed"), key[1:], strict=True))
        | {"start": table.sharpness[0] * key[2] / 2, "median": late(table, "sharpness")}
        | {"crossing": crossing(table), "diverged": table.diverged.any()}
        for key, table in trained.items()
        if key[0] == "map"
    ]
)
by_cell = cells.drop(columns="seed").groupby(["net", "eta"], sort=False)
medians, counts = by_cell.median(), by_cell.crossing.count()
colors = LinearSegmentedColormap.from_list("edge", [BLUE, "white", RED])
fig, (grid, ax) = panels(1, 2, height=4.0, gridspec_kw={"width_ratios": [1.3, 1]})
shown = medians["median"].unstack(sort=False)
grid.imshow(shown, cmap=colors, norm=TwoSlopeNorm(1, 0, 2), aspect="auto")
for i, net in enumerate(shown.index):
    for j, eta in enumerate(shown.columns):
        value, at, gone = medians.loc[(net, eta), ["median", "crossing", "diverged"]]
        reached = counts[net, eta] > len(seeds) / 2
        text = f"{value:.2f}\n" + (f"step {at:.0f}" if reached else "not reached")
        style = {"color": "white" if value < 0.35 else BLACK, "fontsize": "small"}
        grid.text(j, i, "diverges" if gone else text, ha="center", va="center", **style)
grid.set_xticks(range(len(map_etas)), map_etas)
grid.set_yticks(range(len(map_nets)), map_nets)
grid.grid(False)
grid.set(title="$S\\eta/2$, and when the edge is reached", xlabel="step size $\\eta$")
shades = dict(zip(map_nets, (BLACK, BLUE, SKY, ORANGE, RED, PINK, GREEN), strict=False))
for net, seed in product(map_nets, seeds):
    seen = measured(trained["map", net, map_judged, seed])
    style = look(seed, seeds) | {"color": shades[net]}
    label = net if seed == seeds[0] else None
    ax.plot(seen.step, seen.sharpness / seen.mss, **style, label=label)
threshold(ax, 1, "edge")
title = f"sharpness in units of 2/$\\eta$, $\\eta$ = {map_judged}"
ax.set(title=title, xlabel="step", ylabel="$S\\eta/2$", ylim=(0, 2))
ax.legend(ncols=2, loc="lower right")
figures.save(fig, "step_sizes", cells)

# %% [markdown]
# **What to see:** blue is below the edge, white on it, pale red just above. With the smallest
# step there is no time to get there; with the largest, training ends at once. In between, the
# larger the step the earlier the crossing, whatever the architecture, activation or pooling, and
# then all stay at the edge (right; bold: the first seed). "Reasonable" means: larger than the
# budget's smallest, smaller than what diverges. Max pooling starts sharper: at large steps
# above the edge, and comes down to it.

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
print(medians.drop(columns="diverged").unstack("eta").round(2).to_string())

# %% [markdown]
# ## With batch normalisation, too (6.5)
#
# Figure 90 of the source is a VGG with batch normalisation. Here: a small one (convolution,
# normalisation, ReLU; stages end with average pooling), and a CNN with one wider convolution in
# each stage. All training images are the batch that normalises, there are no running averages,
# and so the loss is a function of the parameters like any other.

# %%
fig, axes = panels(2, 3, height=2.8, gridspec_kw={"width_ratios": [1, 1.15, 1]})
colors, rows = by_step_size(bn_etas), []
for (losses, ax, start), net in zip(axes, ("VGG", "CNN"), strict=True):
    for eta, seed in product(bn_etas, seeds[::-1]):
        table, style = trained["bn", net, eta, seed], look(seed, seeds)
        style, seen = style | {"color": colors[eta]}, measured(table)
        ax.plot(seen.step, seen.sharpness, **style)
        rows.append(seen.assign(net=net, eta=eta, seed=seed))
        if seed == seeds[0]:
            losses.semilogy(table.step, table.loss, **style, label=f"$\\eta$ = {eta}")
            losses.axvline(crossing(table), color=colors[eta], ls=":", lw=1)
    for eta in bn_etas[1:]:
        threshold(ax, 2 / eta, f"2/{eta}", colors[eta])
    for gain, color in zip(bn_gains, (ORANGE, BLACK, SKY), strict=True):
        seen = measured(trained["gain", net, gain, seeds[0]])
        start.semilogy(seen.step, seen.sharpness, color=color, label=f"{gain:.2g}")
        rows.append(seen.assign(net=net, eta=bn_gain_eta, gain=gain, seed=seeds[0]))
    losses.set(title=f"{net}: training loss", xlabel="step", ylabel="loss")
    ax.set(title="sharpness", xlabel="step", ylabel="$S$", ylim=(0, 2.7 / bn_etas[1]))
    start.set(title="sharpness, by the first weights", xlabel="step", ylabel="$S$")
    start.legend(title="fan-in × variance", ncols=3, loc="upper right")
axes[0, 0].legend(loc="lower left")
figures.save(fig, "batch_norm", pd.concat(rows))

# %% [markdown]
# **What to see:** as without normalisation: each $S$ climbs to its dashed $2/\eta$ and stays
# there, and from the crossing (dotted) the loss is no longer smooth. The smallest step does not
# get that far.
#
# **Why it need not work at the first try** (right, at one small step size). Normalised, a
# convolution does not care how long its weights are, but the sharpness does: from the same
# function and the same loss, shorter weights start sharper. PyTorch's default (orange) is short:
# $S$ starts several times higher, any useful step is *above* the edge, and the weights are
# thrown outwards until it fits. Long weights (blue) start flat but hardly learn. The second
# reason is a wide last layer, whose features alone make a large and constant eigenvalue; pooling
# down to one pixel keeps it small.

# %%
checks = []
for net, eta in product(("VGG", "CNN"), bn_etas[1:]):
    tables = [trained["bn", net, eta, seed] for seed in seeds]
    slow = [late(trained["bn", net, bn_etas[0], seed], "sharpness") for seed in seeds]
    settled = [hover(table, after=0) for table in tables]
    name = f"median S*eta/2 from the crossing on, {net}, eta = {eta}"
    checks.append(Check(name, settled, 0.9, 1.3, control=slow))
    began = [table.sharpness[:61].min() * eta / 2 for table in tables]
    name = f"lowest S*eta/2 of the first 60 steps, {net}, eta = {eta}"
    checks.append(Check(name, began, high=1))
claims.add(
    "6.5",
    "a VGG and a CNN with batch normalisation are at the edge, too",
    "001 fig 90",
    checks,
    seeds,
)
for net in ("VGG", "CNN"):
    first = [trained["gain", net, gain, seeds[0]] for gain in bn_gains]
    text = ", ".join(f"{t.sharpness[0]:.1f} (loss {t.loss[0]:.3f})" for t in first)
    print(f"{net}: first sharpness for the weights {bn_gains}: {text}")

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
    threshold(ax, 2 / eta)
    ax.set(title=f"$\\eta$ = {eta}", xlabel="step", ylim=(0, 3.3 / eta))
    ax.text(ax.get_xlim()[1], 2.03 / eta, "2/$\\eta$", ha="right", va="bottom")
book = pd.Series(book).rename_axis(["eta", "batch", "seed"])
for eta, line in zip(sgd_etas, ("o-", "s-", "^-"), strict=False):
    band(axes[-1], book[eta].droplevel("seed"), BLACK, f"$\\eta$ = {eta}", line)
axes[-1].set_xscale("log", base=2)
axes[-1].set_xticks(sgd_batches, sgd_batches)
threshold(axes[-1], 1)
axes[-1].set(title="where $S\\eta/2$ settles", xlabel="batch size", ylim=(0, 1.3))
axes[-1].legend(loc="lower right")
axes[0].set_ylabel("sharpness $S$")
handles, labels = axes[0].get_legend_handles_labels()
fig.legend(handles, labels, title="batch size", loc="outside lower center", ncols=4)
figures.save(fig, "sgd", pd.concat(rows))

# %% [markdown]
# **What to see:** only the full batch reaches the dashed edge and stays on it. The smaller the
# batch, the lower $S$ settles, at every step size: the noise of the gradient excites the sharp
# directions long before they are unstable by themselves, and, as at the edge, that pushes back
# against sharpening.

# %%
def smallest_rise(settled):
    """The smallest step up from one entry to the next, for each seed."""
    return settled.unstack("seed").diff().min()


by_size = pd.concat([smallest_rise(book[eta]) for eta in sgd_etas], axis=1)
orders = {
    (order, seed): late(trained["order", sgd_control, order, seed], "sharpness")
    for order, seed in product(range(len(sgd_batches)), seeds)
}
orders = smallest_rise(pd.Series(orders).rename_axis(["order", "seed"]))
ends = {size: book.xs(size, level="batch").unstack("seed") for size in sgd_batches}
claims.add(
    "6.6",
    "SGD: the smaller the batch, the further below 2/eta the sharpness settles",
    "001 fig 29",
    [
        Check(
            f"smallest rise of the median S*eta/2 from one of the batch sizes {sgd_batches} "
            "to the next, over all eta (control: the full batch in four orders)",
            by_size.min(axis=1),
            low=0.02,
            control=orders,
        ),
        Check("highest median S*eta/2, smallest batch", ends[sgd_batches[0]].max(), high=0.7),
        Check("lowest median S*eta/2, full batch", ends[sgd_n].min(), low=0.95),
    ],
    seeds,
)
print(book.unstack("seed").round(2).to_string())
parts = {}
for key, table in trained.items():
    parts[key[0]] = parts.get(key[0], 0) + table.cpu_seconds.max()
print("CPU seconds:", {name: round(seconds) for name, seconds in parts.items()})
