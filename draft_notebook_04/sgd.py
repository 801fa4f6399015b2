# %% [markdown]
# ## Spikes of SGD (4.6, 4.7)
#
# SGD sees another loss at each step, that of its batch $B$, and each batch has a critical step
# size of its own,
#
# $$\eta_{crit}(B) = \frac{2}{\lambda_{max}(K_{BB} / |B|)},$$
#
# with $K_{BB}$ the batch's block of the tangent kernel. The paper's explanation of the spikes
# that everyone has seen in the loss of SGD: a batch comes along whose $\eta_{crit}(B)$ lies below
# $\eta$; its step is a step of a catapult.
#
# Four nets, each with one constant $\eta$ that is given in units of $\eta_{crit}$ of all samples
# at the start, and each with a small $\eta$ as the control. The whole kernel is computed at every
# step. All outputs but the ViT's are multiplied by .3, so that the kernel grows between the spikes
# (at 1 the FCN hardly sharpens after its first catapult, and what follows is mostly noise).
#
# **What counts as a spike.** A peak of the full loss that is twice as high as what lies on either
# side of it (losses below .01 count as .01). It lasts from the lowest loss before it until the
# loss is back. The full loss also moves with the choice of the batch, so two kinds are kept apart:
# a spike is a **catapult spike** if on its way up some batch's *own* loss is raised by its *own*
# step while $\eta > \eta_{crit}(B)$, and else a **noise spike**.

# %% [parameters]
# spikes of SGD: FCN, CNN, WRN, ViT-4, in this order
sgd_classes = [2, 6]  # the two classes
sgd_n = [128, 64, 32, 64]  # training images
sgd_size = [14, 14, 14, 14]  # image size in pixels
sgd_batch = [32, 32, 16, 32]  # samples of a batch
sgd_steps = [150, 80, 70, 70]  # steps
sgd_gain = [0.3, 0.3, 0.3, 1.0]  # factor of the output
sgd_share = [2.0, 1.0, 1.5, 2.0]  # eta in units of eta_crit at the start
sgd_share_small = [0.1, 0.05, 0.1, 0.1]  # the same for the small eta (control)
sgd_width = [256, 256, 256, 256]  # hidden units of the FCN
sgd_channels = 48  # channels of the CNN
sgd_base = 8  # channels of the WRN's first convolution
sgd_factor = 2  # how much wider its first block is
sgd_dim = 48  # numbers per token of the ViT
sgd_patch = 7  # side of its patches in pixels
sgd_every = 20  # steps between measurements of the kernel at the small eta
sgd_spike = 2.0  # a spike is so many times higher than its surroundings
sgd_floor = 0.01  # losses below count as equal to it

# %%
sgd_models = {
    "FCN": (wide_fully_connected, {"width": tuple(sgd_width)}),
    "CNN": (wide_convolutional, {"channels": sgd_channels}),
    "WRN": (wide_resnet, {"base": sgd_base, "factor": sgd_factor}),
    "ViT-4": (wide_transformer, {"dim": sgd_dim, "patch": sgd_patch}),
}
sgd_configurations = {}
for i, (net, (model, options)) in enumerate(sgd_models.items()):
    problem = Problem(
        data,
        n=sgd_n[i],
        classes=tuple(sgd_classes),
        size=sgd_size[i],
        model=model,
        options=options | {"gain": sgd_gain[i]},
        signed=True,
    )
    kinds = {"large": (sgd_share[i], 1), "small": (sgd_share_small[i], sgd_every)}
    for kind, (share, every) in kinds.items():
        plan = dict(problem=problem, share=share, batch=sgd_batch[i], steps=sgd_steps[i])
        for seed in seeds:
            sgd_configurations[net, kind, seed] = plan | dict(every=every, seed=seed)
sgd_tables = sweep(run_sgd, sgd_configurations, "SGD")

# %%
sgd_found = {}  # net, seed -> all spikes, at the large eta
for net in sgd_models:
    for seed in seeds:
        sgd_found[net, seed] = spike_table(sgd_tables[net, "large", seed], sgd_spike, sgd_floor)
sgd_catapults = {key: found[found.catapult.eq(True)] for key, found in sgd_found.items()}
sgd_changes = {
    (net, seed): kernel_changes(sgd_tables[net, "large", seed], found)
    for (net, seed), found in sgd_catapults.items()
}

# %% [markdown]
# ### The mechanism (4.6)

# %%
sgd_looks = {  # (eta > eta_crit(B), the batch's own loss rises)
    (False, False): (BLUE, "o", "$\\eta < \\eta_{crit}(B)$, loss of $B$ falls"),
    (True, False): (ORANGE, "o", "$\\eta > \\eta_{crit}(B)$, loss of $B$ falls"),
    (True, True): (RED, "^", "$\\eta > \\eta_{crit}(B)$, loss of $B$ rises"),
    (False, True): (BLACK, "X", "$\\eta < \\eta_{crit}(B)$, loss of $B$ rises"),
}


def octaves(axis):
    """Ticks at powers of 2."""
    axis.set_major_locator(LogLocator(2))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


fig, axes = panels(2, 3, height=2.9)
for row in axes:
    row[0].sharey(row[1])
drawn = {("FCN", "small", seeds[0]): sgd_tables["FCN", "small", seeds[0]]}
for columns, kind, share in zip(
    axes[:, :2].T, ("small", "large"), (sgd_share_small[0], sgd_share[0]), strict=True
):
    table = sgd_tables["FCN", kind, seeds[0]]
    seen = table.dropna(subset="batch_eta_crit")
    columns[0].semilogy(table.step, table.loss, color=BLACK, lw=0.9)
    columns[1].axhline(table.eta[0], color=BLACK, ls="--", lw=1)
    columns[1].text(table.step.max(), 1.1 * table.eta[0], "$\\eta$", ha="right", va="bottom")
    for (beyond, rises), (color, marker, _) in sgd_looks.items():
        rows = seen[(supercritical(table) == beyond) & (batch_rises(table) == rises)]
        columns[1].plot(rows.step, rows.batch_eta_crit, marker, color=color, ms=3.5)
        if rises:
            columns[0].plot(rows.step, rows.loss, marker, color=color, ms=3.5)
    columns[0].set_title(f"FCN, $\\eta$ = {share:g} $\\eta_{{crit}}$ at the start")
    columns[1].set(xlabel="step", yscale="log")
axes[0, 0].set_ylabel("loss of all samples")
axes[1, 0].set_ylabel("$\\eta_{crit}(B)$ of each step's batch")
for ax, nets in zip(axes[:, 2], (["FCN"], [*sgd_models][1:]), strict=True):
    tables = {(net, "large", seed): sgd_tables[net, "large", seed] for net in nets for seed in seeds}
    drawn |= tables
    every = pd.concat(tables.values(), ignore_index=True).dropna(subset="batch_eta_crit")
    change = every.batch_loss_after / every.batch_loss
    for (beyond, rises), (color, marker, label) in sgd_looks.items():
        who = (supercritical(every) == beyond) & (batch_rises(every) == rises)
        place = (every.eta / every.batch_eta_crit)[who], change[who]
        ax.loglog(*place, marker, color=color, ms=2.5, alpha=0.7, label=label)
    ax.axhline(1, color=BLACK, ls="--", lw=1)
    ax.axvline(1, color=BLACK, ls="--", lw=1)
    for axis in (ax.xaxis, ax.yaxis):
        octaves(axis)
    ax.set(title=f"{', '.join(nets)}: all seeds", ylabel="loss of $B$, after / before")
axes[1, 2].set_xlabel("$\\eta\\,/\\,\\eta_{crit}(B)$")
handles, labels = axes[0, 2].get_legend_handles_labels()
fig.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=2)

shown = pd.concat(drawn, names=["net", "kind", "seed"]).droplevel(3).reset_index()
figures.save(fig, "sgd_mechanism", shown)

# %% [markdown]
# **What to see:** with the small $\eta$ every batch stays below its $\eta_{crit}(B)$ and the loss
# falls smoothly. With the large one SGD settles where the $\eta_{crit}(B)$ of its batches straddle
# $\eta$ (bottom), an edge of stability batch by batch, and the loss jumps. Right: every step of
# all seeds. The quadrant at the upper left is empty: not one batch below its critical step size
# raised its own loss (that a black cross stands for).

# %%
tells = pd.DataFrame(
    [
        {"net": net, "seed": seed, **necessity(sgd_tables[net, "large", seed])}
        for net in sgd_models
        for seed in seeds
    ]
)
print("steps at the large step size; shares, medians over the seeds")
print(tells.groupby("net", sort=False).median().drop(columns="seed").round(2).to_string())


def among_rises(rows, column):
    """Share of the rises for which something holds, over several runs, for each seed."""
    counts = (rows[column] * rows.rises).groupby(rows.seed).sum()
    return counts / rows.rises.groupby(rows.seed).sum()


first, others = tells[tells.net == "FCN"], tells[tells.net != "FCN"]
large = [sum(len(sgd_catapults[net, seed]) for net in sgd_models) for seed in seeds]
small = [
    sum(
        len(spikes(sgd_tables[net, "small", seed], np.log10(sgd_spike), 1, sgd_floor))
        for net in sgd_models
    )
    for seed in seeds
]
claims.add(
    "4.6",
    "SGD: a batch whose eta_crit lies below eta is what makes its loss rise; a small eta gives "
    "no spikes",
    "003 mechanism of catapults in SGD",
    [
        Check(
            "FCN: share of eta > eta_crit(B) among the steps that raise their batch's loss",
            first.given_rise,
            low=0.85,
            control=first.shuffled,
        ),
        Check(
            "the same, CNN, WRN and ViT-4 together",
            among_rises(others, "given_rise"),
            low=0.85,
            control=among_rises(others, "shuffled"),
        ),
        Check("spikes at the small eta, all four nets", small, high=0, control=large),
    ],
    seeds,
)

# %% [markdown]
# The converse does not hold and is not claimed: of the steps with $\eta > \eta_{crit}(B)$ only
# three or four in ten raise the loss of their batch (`rise_given`; orange against red in the
# figure). A step multiplies the part of the batch's residual along the top eigenvector by
# $1 - \eta\lambda$, and that part must be large enough already to outweigh the rest, which falls.
# The control shuffles the $\eta_{crit}$ between the steps: what is left is their share among all
# steps (`shuffled`).
#
# ### What a spike does to the kernel (4.7)

# %%
fig, axes = panels(4, 4, height=1.75)
drawn = {}
for net, (loss_ax, kernel_ax, parts_ax, zoom_ax) in zip(sgd_models, axes.T, strict=True):
    drawn |= {(net, seed): sgd_tables[net, "large", seed] for seed in seeds}
    for seed in seeds[::-1]:
        table = sgd_tables[net, "large", seed]
        norm = table.kernel_norm / table.kernel_norm[0]
        loss_ax.semilogy(table.step, table.loss, color=BLACK, **look(seed, seeds))
        kernel_ax.semilogy(table.step, norm, color=BLUE, **look(seed, seeds))
    found = sgd_catapults[net, seeds[0]]
    for spike in found.itertuples():
        for ax in (loss_ax, kernel_ax):
            ax.axvspan(spike.base, spike.end, color=ORANGE, alpha=0.3, lw=0)
    for high in found.nlargest(1, "height").itertuples():
        seen = table[table.step.between(high.base - 5, high.end + 8)]
        parts_ax.semilogy(seen.step, seen.loss, color=BLACK, label="loss")
        parts_ax.semilogy(seen.step, seen.top_loss, "--", color=RED, label="$PL_5$")
        parts_ax.semilogy(seen.step, seen.rest_loss, color=SKY, label="the rest")
        zoom_ax.plot(seen.step, seen.kernel_norm / table.kernel_norm[0], ".-", color=BLUE)
        for ax in (parts_ax, zoom_ax):
            ax.axvspan(high.base, high.end, color=ORANGE, alpha=0.3, lw=0)
            ax.set_xlim(seen.step.min(), seen.step.max())
    octaves(kernel_ax.yaxis)
    loss_ax.set_title(net)
    zoom_ax.set_xlabel("step")
for ax, text in zip(
    axes[:, 0],
    ("loss", "$\\|K\\| / \\|K_0\\|$", "loss, one spike", "$\\|K\\| / \\|K_0\\|$"),
    strict=True,
):
    ax.set_ylabel(text)
handles, labels = axes[2, 0].get_legend_handles_labels()
handles.append(axes[0, 0].patches[0])
fig.legend(handles, [*labels, "catapult spike"], loc="outside lower center", ncols=4)
shown = pd.concat(drawn, names=["net", "seed"]).droplevel(2).reset_index()
figures.save(fig, "sgd_spikes", shown)

# %% [markdown]
# **What to see:** nearly every catapult spike (shaded; bold: the first seed) ends with a lower
# $\|K\|$ than it began with, and between spikes $\|K\|$ climbs again. Lower half: the highest spike
# of the first seed. The loss rises in the top-5 eigenspace ($PL_5$, dashed) while the rest hardly
# takes notice. On the way up $\|K\|$ may rise, too; it falls while the loss comes down.

# %%
fig, (ratio_ax, change_ax) = panels(1, 2, height=3.3)
rows = []
for i, net in enumerate(sgd_models):
    for j, seed in enumerate(seeds):
        x = i + 0.22 * (j - (len(seeds) - 1) / 2)
        found, change = sgd_found[net, seed], sgd_changes[net, seed]
        for catapult, style in ((True, "o"), (False, "x")):
            ratios = found.kernel_ratio[found.catapult.eq(catapult)]
            ratio_ax.semilogy([x] * len(ratios), ratios, style, color=RED, ms=4, alpha=0.7)
        rows.append(found.assign(net=net, seed=seed))
        for where, color in (("inside", RED), ("outside", BLUE)):
            label = f"{where} catapult spikes" if i + j == 0 else None
            change_ax.plot(x, change[where], "o", color=color, ms=5, label=label)
            label = "the same, windows shifted" if i + j == 0 else None
            control = change[f"shifted_{where}"]
            change_ax.plot(x, control, "_", color=color, ms=9, mew=1.5, label=label)
        rows.append(pd.DataFrame([change]).assign(net=net, seed=seed))
threshold(ratio_ax, 1)
threshold(change_ax, 0)
for ax in (ratio_ax, change_ax):
    ax.set_xticks(range(len(sgd_models)), [*sgd_models])
octaves(ratio_ax.yaxis)
ratio_ax.set(title="each catapult spike", ylabel="$\\|K\\|$ at its end / at its base")
change_ax.set(title="the whole run, each seed", ylabel="sum of changes of $\\log \\|K\\|$")
handles, labels = change_ax.get_legend_handles_labels()
fig.legend(handles, labels, loc="outside lower center", ncols=4)
figures.save(fig, "sgd_kernel_changes", pd.concat(rows))

# %% [markdown]
# **What to see:** nearly all catapult spikes leave a lower $\|K\|$ behind (left, one dot each, a
# column for each seed). Over the whole run the kernel falls inside the spikes and grows outside
# (right). Windows of the same lengths elsewhere in the run (dashes: the mean over all shifts of
# the pattern of spikes along the run) know nothing of that. At the largest $\eta$ (FCN, WRN, ViT)
# the falls win and $\|K\|$ ends below its start; the CNN, at $\eta_{crit}$, ends where it began.

# %%
counted = pd.concat(sgd_found, names=["net", "seed"])
counted["falls"] = (counted.kernel_ratio < 1).where(counted.catapult.eq(True))
by_net = counted.groupby("net", sort=False)
print("catapult spikes of all seeds, and what they do to |K|")
print(
    pd.DataFrame(
        {
            "catapult spikes": by_net.catapult.sum(),
            "noise spikes": by_net.catapult.size() - by_net.catapult.sum(),
            "share with falling |K|": by_net.falls.apply(lambda falls: falls.mean()),
            "median ratio": by_net.kernel_ratio.median(),
            "lowest share of PL_5": by_net.top_share.min(),
        }
    )
    .astype(float)
    .round(2)
    .to_string()
)
rows = []
for factor in (1.5, 2.0, 3.0):
    for floor in (0.003, 0.01, 0.03):
        tables = (sgd_tables[net, "large", seed] for net in sgd_models for seed in seeds)
        found = pd.concat([spike_table(table, factor, floor) for table in tables])
        real = found[found.catapult.eq(True)]
        row = {"height": factor, "floor": floor, "catapult spikes": len(real)}
        row |= {"noise spikes": len(found) - len(real)}
        rows.append(row | {"share with falling |K|": (real.kernel_ratio < 1).mean()})
print("\nthe same with other thresholds, all nets and seeds")
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %%
keys = pd.MultiIndex.from_tuples(sgd_changes, names=["net", "seed"])
changes = pd.DataFrame(sgd_changes.values(), index=keys)
found = pd.concat(sgd_catapults, names=["net", "seed"])
numbers = found.groupby("seed").size()
weights = found.groupby(["net", "seed"]).size() / numbers
fast = [net for net, share in zip(sgd_models, sgd_share, strict=True) if share > 1]


net_changes = {}
for kind in ("large", "small"):
    norms = [[sgd_tables[net, kind, seed].kernel_norm.dropna() for net in fast] for seed in seeds]
    net_changes[kind] = [max(k.iloc[-1] / k.iloc[0] for k in row) for row in norms]
claims.add(
    "4.7",
    "each spike of SGD lowers the norm of the tangent kernel and lives in its top eigenspace",
    "003 mechanism of catapults in SGD",
    [
        Check(
            "share of the catapult spikes of all four nets in which |K| falls",
            (found.kernel_ratio < 1).groupby("seed").mean(),
            low=2 / 3,
            control=(changes.shifted_falls * weights).groupby("seed").sum(),
        ),
        Check(
            "sum of the changes of log |K| inside the spikes, highest of the nets",
            changes.inside.groupby("seed").max(),
            high=0,
            control=changes.shifted_inside.groupby("seed").max(),
        ),
        Check(
            "outside the spikes, lowest of the nets",
            changes.outside.groupby("seed").min(),
            low=0,
            control=changes.shifted_outside.groupby("seed").min(),
        ),
        Check(
            "share of PL_5 in the rise of the loss, median of the spikes, lowest of the nets",
            found.groupby(["seed", "net"]).top_share.median().groupby("seed").min(),
            low=0.6,
        ),
        Check(
            f"|K| at the end / at the start, highest of {', '.join(fast)}",
            net_changes["large"],
            high=1,
            control=net_changes["small"],
        ),
    ],
    seeds,
)
