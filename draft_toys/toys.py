# %% [parameters]
# a quadratic (7.1)
quad_eta = 0.1  # step size
quad_lambdas = [1.1, 0.8, 0.3, 0.1, 0.03]  # Hessian eigenvalues, in units of 2/eta
quad_calm = 0.95  # the largest one for the control, in the same units
quad_steps = 40  # steps

# the minimalist example (7.4)
minimal_eta = 0.2  # step size of the basin
minimal_start = [2.7, 0.35]  # x, y from which several step sizes set off
minimal_etas = [0.1, 0.15, 0.2]  # these step sizes
minimal_steps = 600  # steps of these runs
minimal_grid = 300  # starts per side of the map
minimal_window = 4.0  # largest x and y of the map
minimal_runs = 2000  # random starts per seed
minimal_s = [1.02, 2.0]  # sharpness of the gradient flow's minimum, in units of 2/eta
minimal_p = [0.1, 1.1]  # product of the scalars at the start
minimal_most = 4000  # most steps of a run

# (1 - x^2 y^2)^2 against (1 - xy)^2 (7.5)
shallow_runs = 5000  # random starts per seed and loss
shallow_x = [1.5, 4.5]  # x at the start
shallow_y = [0.05, 1.5]  # y at the start

# SGD is pickier (7.8)
picky_eta = 0.7  # step size of the paper's figure
picky_start = -1e-5  # x_0 - 1
picky_shown = 90  # steps of the pictured runs
picky_runs = 1000  # runs per seed and step size
picky_steps = [300, 4000]  # steps within which a run escapes or not
picky_etas = [0.4, 0.5, 0.53, 0.54, 0.545, 0.55, 0.5525]  # step sizes up to "mean square"
picky_fine = [0.553, 0.62, 0.002]  # further ones: first, end, difference
picky_large = [0.65, 0.7, 0.8, 0.9]  # and the largest

# sliders
slider_eta = [0.3, 1.6, 0.05, 1.0]  # step size: lowest, highest, step, start
slider_beta = [0.0, 0.95, 0.05, 0.0]  # momentum, the same

# %% [section 7.1]

# %% [markdown]
# ## A quadratic (7.1)
#
# With $L = \frac12 \sum_i \lambda_i \theta_i^2$ a step of gradient descent multiplies every
# coordinate by a number of its own, $\theta_{t+1,i} = (1 - \eta\lambda_i)\,\theta_{t,i}$. If only
# $\lambda_1$ exceeds $2/\eta$, only the first coordinate diverges; it changes sign at every step.
# Here $\theta$ has five coordinates, in a basis drawn by the seed, and the Hessian is a dense
# matrix. Control: $\sum_i \lambda_i \log\cosh\theta_i$, the same Hessian at 0 but no quadratic.

# %%
quad_paths, quad_control = {}, {}
for seed in seeds:
    rng = torch.Generator().manual_seed(seed)
    start = 2 + torch.rand(len(quad_lambdas), generator=rng, dtype=torch.float64)
    mix = torch.randn(2 * [len(start)], generator=rng, dtype=torch.float64)
    basis = torch.linalg.qr(mix)[0]
    for top in (quad_lambdas[0], quad_calm):
        lambdas = torch.tensor([top, *quad_lambdas[1:]], dtype=torch.float64) * 2 / quad_eta
        H = basis @ torch.diag(lambdas) @ basis.T
        bowl = Objective(lambda w, H=H: w @ H @ w / 2)
        bent = Objective(lambda w, k=lambdas, Q=basis: (k * (w @ Q).cosh().log()).sum())
        for keep, loss in ((quad_paths, bowl), (quad_control, bent)):
            walk = trajectory(loss, GradientDescent(quad_eta), basis @ start)
            w = torch.stack([step.point.w for step in islice(walk, quad_steps + 1)])
            keep[top, seed] = (w @ basis).numpy()

# %%
fig, axes = panels(2, 2, height=2.9, width_ratios=[1, 1.3])
rows, shades = [], (RED, ORANGE, GREEN, BLUE, BLACK)
for row, top in zip(axes, (quad_calm, quad_lambdas[0]), strict=True):
    ratios, theta = np.array([top, *quad_lambdas[1:]]), quad_paths[top, seeds[0]]
    steep, flat = ratios[0] * 2 / quad_eta, ratios[3] * 2 / quad_eta
    size, tones = 1.7 * abs(theta[0, [0, 3]]).max(), (-1.5, 2.5)
    bowl = partial(lambda a, b, x, y: (a * x**2 + b * y**2) / 2, steep, flat)
    surface(row[0], bowl, (-size, size, -size, size), tones)
    row[0].plot(theta[:, 0], theta[:, 3], ".-", color=RED if top > 1 else BLUE, lw=0.8)
    row[0].plot(*theta[0, [0, 3]], "o", color=BLACK, ms=5)
    row[0].set(title=f"$\\lambda_1$ = {top:g} · 2/$\\eta$", xlabel="$\\theta_1$ (steepest)")
    row[0].set_ylabel("$\\theta_4$")
    steps = np.arange(len(theta))
    for i, (ratio, color) in enumerate(zip(ratios, shades, strict=True)):
        line = abs(theta[0, i]) * abs(1 - 2 * ratio) ** steps
        row[1].semilogy(steps, line, "--", color=color, lw=1)
        label = f"$\\theta_{i + 1}$: {1 - 2 * ratio:+.2f}"
        row[1].semilogy(steps, abs(theta[:, i]), "o", color=color, ms=3.5, label=label)
    row[1].set(ylim=(1e-7, 1e5), xlabel="step", ylabel="$|\\theta_i|$")
    row[1].set_title("each coordinate by itself; dashed: $|1 - \\eta\\lambda_i|^t$")
    row[1].legend(
        title="factor $1 - \\eta\\lambda_i$", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    names = [f"theta_{i + 1}" for i in range(len(ratios))]
    rows.append(pd.DataFrame(theta, columns=names).assign(step=steps, top=top))
figures.save(fig, "quadratic", pd.concat(rows))

# %% [markdown]
# **What to see:** above, all factors are below 1 in size and everything decays. Below, one factor
# is -1.2: $\theta_1$ grows without end and changes sign at every step, while the other four decay
# exactly as if it were not there. Nothing on a quadratic turns that around. What gradient descent
# does on networks beyond $2/\eta$ is *not* contained in the quadratic model; the rest of this
# notebook is about the terms that it leaves out. (One seed; $\theta_2$ alternates too, with -0.6.)


# %%
def step_error(theta, top):
    factors = 1 - 2 * np.array([top, *quad_lambdas[1:]])
    off = np.linalg.norm(theta[1:] - factors * theta[:-1], axis=1)
    return (off / np.linalg.norm(theta[:-1], axis=1)).max()


off, bent_off, gains = [], [], {}
for (top, seed), theta in quad_paths.items():
    gains[top, seed] = abs(theta[-1] / theta[0])
    if top > 1:
        off.append(step_error(theta, top))
        bent_off.append(step_error(quad_control[top, seed], top))
wild, calm = (
    np.array([gains[top, s] for s in seeds]) for top in (quad_lambdas[0], quad_calm)
)
claims.add(
    "7.1",
    "quadratic: coordinate i is multiplied by 1 - eta lambda_i; only lambda_1 > 2/eta diverges",
    "001 GD on quadratic objective",
    [
        Check("error of a predicted step / distance", off, high=1e-10, control=bent_off),
        Check(
            f"growth of coordinate 1 in {quad_steps} steps",
            wild[:, 0],
            10,
            control=calm[:, 0],
        ),
        Check("growth of the others, at most", wild[:, 1:].max(1), high=0.2),
    ],
    seeds,
)

# %% [section 7.4]

# %% [markdown]
# ## A minimalist example (7.4)
#
# Four scalars are enough for gradient descent to end at the edge (Zhu et al.):
# $L = \frac12 (1 - xyzw)^2$ from $z = x$, $w = y$, where one step is
#
# $$x_{t+1} = x_t + \eta\,(1 - x_t^2 y_t^2)\,x_t y_t^2, \qquad
# y_{t+1} = y_t + \eta\,(1 - x_t^2 y_t^2)\,x_t^2 y_t.$$
#
# The minima are the hyperbola $xy = 1$, and their sharpness is $2(x^2 + y^2)$: flat in the middle,
# ever steeper outwards. Gradient flow keeps $x^2 - y^2$, and finds whatever minimum lies on its
# way. In the paper's coordinates $a = (x^2 - y^2)^{1/2} - (\eta^{-2} - 4)^{1/4}$, $b = xy - 1$ the
# minimum of sharpness $2/\eta$ is the origin, and the flow from any start with $a > 0$ ends at a
# minimum sharper than that. Every start here is run until its loss is below 1e-24 or it diverges;
# $S$ is the largest eigenvalue of the full 4 × 4 Hessian. Control: $\frac12 (1 - xy)^2$.

# %%
four, two = Product(2), Product(1)
side = np.linspace(0.02, minimal_window, minimal_grid)
starts = {("map", 0): [part.ravel() for part in np.meshgrid(side, side)]}
for seed in seeds:
    rng = np.random.default_rng(seed)
    s, p = (rng.uniform(*span, minimal_runs) for span in (minimal_s, minimal_p))
    for k, loss in ((2, four), (1, two)):
        starts[f"near, k = {k}", seed] = loss.starts(s, p, minimal_eta)
    x, y = (rng.uniform(*span, shallow_runs) for span in (shallow_x, shallow_y))
    starts["box, k = 2", seed] = starts["box, k = 1", seed] = (x, y)
plan = {}
for (name, seed), (x, y) in starts.items():
    k = 1 if "k = 1" in name else 2
    plan[name, seed] = dict(k=k, eta=minimal_eta, x=x, y=y, steps=minimal_most)
products = sweep(run_product, plan, "products of scalars")

# %%
fig, axes = panels(1, 3, height=3.4, width_ratios=[1, 1, 1.25])
rows, shades = [], dict(zip(minimal_etas, (ORANGE, GREEN, BLUE), strict=True))
surface(axes[2], four.loss, (1.95, 3.25, 0.16, 0.56), (-4, 0.5))
u = np.linspace(1.9, 3.3, 200)
axes[2].plot(u, 1 / u, color=BLACK, lw=1)
for eta, color in shades.items():
    x, y = four.path(*minimal_start, eta, minimal_steps)
    x2, y2 = ((v[1:] + v[:-1]) / 2 for v in (x, y))  # midpoints: no oscillation
    loss, ratio = four.loss(x, y)[:-1], four.sharpness(x2, y2) * eta / 2
    axes[0].semilogy(loss, color=color, lw=1, label=f"$\\eta$ = {eta}")
    axes[1].plot(ratio, color=color, lw=1.2)
    axes[2].plot(x, y, ".", color=color, ms=2.5)
    if ratio[-1] > 0.95:
        axes[2].plot(*four.starts(1, 1, eta), "*", color=color, ms=15, mec=BLACK, mew=0.7)
    table = dict(eta=eta, step=range(len(loss)), x=x[:-1], y=y[:-1], loss=loss, ratio=ratio)
    rows.append(pd.DataFrame(table))
axes[2].text(2.8, 0.365, "minima $xy = 1$", rotation=-17)
axes[2].plot(*minimal_start, "o", color=BLACK, ms=6)
threshold(axes[1], 1)
axes[1].text(195, 1.03, "$S = 2/\\eta$", ha="right")
axes[0].set(title="loss", xlabel="step", ylabel="$L$", ylim=(1e-16, 10))
axes[0].legend(loc="lower right")
axes[1].set(
    title="sharpness (midpoints)",
    xlabel="step",
    ylabel="$S\\,\\eta/2$",
    ylim=(0, 2),
    xlim=(0, 200),
)
axes[2].set(title="iterates; star: where $S = 2/\\eta$", xlabel="$x$", ylabel="$y$")
figures.save(fig, "minimalist", pd.concat(rows))

# %% [markdown]
# **What to see:** the same start (black dot) with four step sizes. The smallest runs straight into
# the nearest minimum, which is flatter than its $2/\eta$. The others find themselves at a minimum
# that is too sharp for them: they zigzag across the hyperbola and slide along it to flatter ones,
# until just below their own edge (stars).

# %%
plane = products["map", 0]
shape = 2 * [minimal_grid]
fig, (left, right) = panels(1, 2, height=4.3)
image = plane.S_end.to_numpy().reshape(shape)
tones = dict(cmap="viridis", vmin=0.4, vmax=1, shading="nearest", rasterized=True)
mesh = left.pcolormesh(side, side, image, **tones)
left.set_facecolor("#d9d9d9")
near = (image >= 0.98).astype(float)
left.contourf(side, side, near, levels=[0.5, 2], colors=[RED])
u = np.linspace(1 / minimal_window, minimal_window, 400)
left.plot(u, 1 / u, color=BLACK, lw=1.2)
gap = np.sqrt(minimal_eta**-2 - 4)
left.plot(np.sqrt(gap + u**2), u, "--", color=BLACK, lw=1.2)
left.plot(u, np.sqrt(gap + u**2), "--", color=BLACK, lw=1.2)
left.set(xlim=(0, minimal_window), ylim=(0, minimal_window), xlabel="$x_0$", ylabel="$y_0$")
left.set(title=f"where it ends, by start ($\\eta$ = {minimal_eta})", aspect="equal")
left.grid(False)
small = dict(fontsize="small", ha="center")
left.text(2.45, 2.25, "diverges", ha="center")
left.text(1.35, 3.55, "dashed: gradient flow\nends at 2/$\\eta$", **small)
left.text(3.5, 0.62, "ends 0 to 2 %\nbelow 2/$\\eta$", color=RED, weight="bold", **small)
fig.colorbar(mesh, ax=left, label="$S_\\infty\\,\\eta/2$, where below 0.98", shrink=0.9)

origin = gap**0.5
rows = [plane[["x0", "y0", "S_end"]].assign(part="map")]
gaps = (np.linspace(0.01, 1.1, 300) + origin) ** 2
cycle = four.two_cycle(gaps, minimal_eta)
right.plot(cycle.T - 1, np.sqrt(gaps) - origin, color=BLACK, lw=1.2, zorder=5)
for s, p, color in (
    (1.9, 0.6, BLUE),
    (1.5, 1.05, GREEN),
    (1.2, 0.3, ORANGE),
    (1.2, 1.1, RED),
):
    x, y = four.path(*four.starts(s, p, minimal_eta), minimal_eta, 600)
    a, b = np.sqrt(x**2 - y**2) - origin, x * y - 1
    right.plot(b, a, ".", color=color, ms=4)
    right.plot(b[0], a[0], "o", color=color, ms=8, mec=BLACK)
    rows.append(pd.DataFrame(dict(x=x, y=y, a=a, b=b, part=f"path from s={s}, p={p}")))
right.plot(0, 0, "*", color="white", ms=14, mec=BLACK, zorder=6)
right.axhline(0, color=BLACK, ls="--", lw=1)
right.text(
    0.3, 0.015, "$S = 2/\\eta$ at $b = 0$", ha="right", va="bottom", fontsize="small"
)
right.set(title="to the 2-cycle (line), and down it to the edge", xlim=(-0.65, 0.32))
right.set(xlabel="$b = xy - 1$", ylabel="$a$", ylim=(-0.06, 1.0))
figures.save(fig, "basin", pd.concat(rows))

# %% [markdown]
# **What to see:** left, 90,000 starts. Red is the basin of the edge: whole regions end between
# .98 and 1 of $2/\eta$, however sharp the minimum that gradient flow would find from there
# (beyond the dashed curves it is sharper than $2/\eta$). Before them most starts do what the flow
# does. Grey ones diverge; along the border the outcome is a fractal, and there some starts beyond
# the dashed curve are thrown to far flatter minima (.4, the flattest). Right, four of them in the
# paper's coordinates: the fast motion goes to an orbit of period two at nearly fixed $a$ (line:
# computed with $x^2 - y^2$ held fixed), the slow one down that parabola. It is slow because a
# step shrinks $x^2 - y^2$ by the factor $1 - \eta^2(1 - x^2y^2)^2 x^2 y^2$: second order in $b$,
# always downwards, and over when $b$ is 0. So $a$ ends a little below 0, never far below.


# %%
def sharp_ends(name, seed):
    return products[name, seed].query("converged and S_flow > 1").S_end


near = {k: [products[f"near, k = {k}", seed] for seed in seeds] for k in (2, 1)}
lowest, top = ([getattr(t.S_end, f)() for t in near[2]] for f in ("min", "max"))
shallow_low, shallow_top = (
    [getattr(t.S_end, f)() for t in near[1]] for f in ("min", "max")
)
sharper = plane[plane.S_flow > 1]
claims.add(
    "7.4",
    "minimalist example 1/2 (1 - xyzw)^2: converges just below 2/eta from a whole region",
    "001 a minimalist example (Zhu et al.)",
    [
        Check("lowest S_end*eta/2 of all starts", lowest, low=0.98, control=shallow_low),
        Check("highest S_end*eta/2 of all starts", top, high=1, control=shallow_top),
        Check("share that converges", [t.converged.mean() for t in near[2]], low=0.99),
    ],
    seeds,
    note="Judged on starts near the minima. In the fringe of the basin some end far flatter.",
)
print(
    f"starts per seed: {minimal_runs}, flow ends at {minimal_s} of 2/eta, xyzw {minimal_p}"
)
whole = (
    f"whole map, flow sharper than 2/eta: {sharper.converged.mean():.0%} converge, of these"
)
print(
    whole,
    f"{(sharp_ends('map', 0) >= 0.98).mean():.1%} to .98 or more, the others down to",
    end=" ",
)
print(f"{sharper.S_end.min():.2f}; highest end of all: {plane.S_end.max():.4f}")

# %% [section 7.5]

# %% [markdown]
# ## Depth matters: $(1 - x^2y^2)^2$ against $(1 - xy)^2$ (7.5)
#
# The slides set two losses side by side. Both have the minima $xy = 1$ and get steeper outwards;
# only the deeper one brings gradient descent to the edge. Starts are drawn from one box for both,
# and those from which gradient flow would end sharper than $2/\eta$ are looked at. The deep loss is
# that of 7.4 (as a function of $x$ and $y$ alone it has the same path and the same $S\eta$ at a
# quarter of the step size: the factor ½, and two scalars for each letter). Of each kind of start
# the share that ends within 2 % of $2/\eta$ counts; each loss is the other's control.

# %%
fig, axes = panels(2, 2, height=3)
axes = axes.ravel()
inks, rows = {2: BLUE, 1: ORANGE}, []
names = {2: "$(1 - x^2y^2)^2$", 1: "$(1 - xy)^2$"}
windows = {2: (2.05, 2.75, 0.2, 0.55), 1: (2.0, 4.0, -0.6, 1.25)}
for ax, k in zip(axes[:2], (2, 1), strict=True):
    loss = Product(k)
    surface(ax, loss.loss, windows[k], (-4, 0.5))
    u = np.linspace(*windows[k][:2], 100)
    ax.plot(u, 1 / u, color=BLACK, lw=1)
    x, y = loss.path(*loss.starts(1.3, 0.8, minimal_eta), minimal_eta, 100)
    ax.plot(x, y, "-", color=inks[k], lw=0.5, alpha=0.7)
    ax.scatter(x, y, c=range(101), cmap="plasma", s=9, zorder=3)
    ax.plot(x[0], y[0], "o", color=BLACK, ms=6)
    ax.plot(*loss.starts(1, 1, minimal_eta), "*", color="white", ms=15, mec=BLACK)
    ax.set(title=f"{names[k]}, 100 steps", xlabel="$x$", ylabel="$y$")
    rows.append(pd.DataFrame(dict(x=x, y=y, k=k, part="path", step=range(101))))
    over = np.linspace(1.002, 1.25, 250)
    x, y = loss.starts(over, np.ones(250), minimal_eta)
    cycle = loss.two_cycle(x**2 - y**2, minimal_eta)
    axes[2].plot(over, cycle.T, color=inks[k], lw=2)
    rows.append(
        pd.DataFrame(dict(over=over, low=cycle[0], high=cycle[1], k=k, part="cycle"))
    )
    for seed in seeds:
        ends = sharp_ends(f"box, k = {k}", seed).sort_values()
        label = names[k] if seed == seeds[0] else None
        share = np.arange(1, len(ends) + 1) / len(ends)
        axes[3].plot(ends, share, color=inks[k], **look(seed, seeds), label=label)
        rows.append(pd.DataFrame(dict(S_end=ends, k=k, seed=seed, part="end")))
axes[2].plot([0.96, 1], [1, 1], color=BLACK)
axes[2].plot([1, 1.25], [1, 1], ":", color=BLACK)
axes[2].text(0.965, 1.1, "minimum", fontsize="small")
axes[2].set(title="the orbit of period two", xlabel="$S\\,\\eta/2$ of the minimum")
axes[2].set(ylabel="$xy$", xlim=(0.96, 1.1), ylim=(-1.2, 3.2))
for ax, y in ((axes[2], -0.9), (axes[3], 0.5)):
    ax.axvline(1, color=BLACK, ls="--", lw=1)
    ax.text(0.985 if ax is axes[3] else 0.998, y, "2/$\\eta$", ha="right")
axes[3].set(
    title="where they end, all seeds", xlabel="$S_\\infty\\,\\eta/2$", xlim=(0.15, 1.05)
)
axes[3].set_ylabel("share of the starts")
axes[3].legend(loc="upper left")
figures.save(fig, "depth", pd.concat(rows))

# %% [markdown]
# **What to see:** above, the same kind of start (gradient flow would end at 1.3 times $2/\eta$),
# the steps from dark to light; the star is where $S = 2/\eta$. On the deep loss the zigzag slides
# along the hyperbola down to the star. On the shallow one it is thrown past it. The reason is below
# left: the orbit of period two with $x^2 - y^2$ held fixed, against how sharp the minimum is. On
# the deep loss (blue) it grows out of the minimum at the edge, as small as one likes, and the slide
# along it ends at the edge. On the shallow one (orange) it is there at full size at once, from 0 to
# 2 in $xy$ and beyond: such hops shrink $x^2 - y^2$ by a lot, and below the edge they stop
# anywhere. Right, all starts that converge: the blue ends stand at the dashed line, the orange
# ones are spread over all flatter minima. (The blue ones that end flatter, at
# most about a tenth, started in the fringe seen in 7.4.)

# %%
ends = {k: [sharp_ends(f"box, k = {k}", seed) for seed in seeds] for k in (2, 1)}
close = {k: [part.between(0.98, 1.02).mean() for part in ends[k]] for k in ends}
middle = {k: [part.median() for part in ends[k]] for k in ends}
claims.add(
    "7.5",
    "(1 - x^2 y^2)^2 ends at 2/eta, (1 - xy)^2 clearly flatter",
    "001 width and depth: for EoS",
    [
        Check("share within 2 % of 2/eta, deep", close[2], low=0.8, control=close[1]),
        Check("the same, shallow", close[1], high=0.05, control=close[2]),
        Check("median S_end*eta/2, shallow", middle[1], high=0.8, control=middle[2]),
    ],
    seeds,
)

# %% [section 7.8]

# %% [markdown]
# ## SGD is pickier (7.8)
#
# $f_1 = \min\{x^2, 0.1(x - 1)^2\}$, $f_2 = \min\{x^2, 1.9(x - 1)^2\}$: their mean has two minima of
# the same curvature 2, at 0 and at 1, and for gradient descent both are stable up to $\eta = 1$. A
# step of SGD draws one of the two. At 0 that makes no difference; at 1 the distance $d = x - 1$ is
# multiplied by $1 - \eta a$, $a$ = .2 or 3.8, at random. When is 1 unstable? The *mean* of $d^2$
# grows beyond $\mathrm{E}(1 - \eta a)^2 = 1$ (mean-square stability, the usual criterion), a *run*
# beyond $\mathrm{E} \log|1 - \eta a| = 0$. Between the two, rare runs carry the mean.
#
# $\log|d|$ is a random walk, mean $m$ and variance $s^2$ per step, and escapes when it has risen
# by $h = \log(r/|d_0|)$; $r = .42$ is where $f_2$ switches to its other branch. The chance of that
# within $T$ steps is, for a Brownian motion,
#
# $$\Phi\!\left(\frac{mT - h}{s\sqrt T}\right)
# + e^{2mh/s^2}\,\Phi\!\left(\frac{-h - mT}{s\sqrt T}\right).$$
#
# So not only the threshold can be predicted, but the whole curve, and its width at finite $T$.

# %%
picky = Picky()
fine = np.arange(*picky_fine).round(4).tolist()
scan = dict(etas=[*picky_etas, *fine, *picky_large], runs=picky_runs, start=picky_start)
plan = {
    (T, seed): dict(seeds=[seed], steps=T) | scan for T in picky_steps for seed in seeds
}
escapes = sweep(run_picky, plan, "SGD")

# %%
fig, (left, right) = panels(1, 2, height=3)
steps, rows = np.arange(picky_shown + 1), []
for seed in [None, *seeds[::-1]]:
    d = np.full(picky_shown + 1, picky_start)
    draws = np.random.default_rng(seed or 0).integers(2, size=picky_shown)
    for t, draw in enumerate(draws):
        d[t + 1] = picky.step(d[t], picky_eta, None if seed is None else draw)
    style = dict(color=BLACK, lw=2, label="GD") if seed is None else look(seed, seeds)
    style |= (
        {} if seed is None else dict(color=RED, label="SGD" if seed == seeds[0] else None)
    )
    left.plot(steps, 1 + d, **style)
    right.semilogy(steps, np.maximum(picky.loss(d), 1e-20), **style)
    rows.append(pd.DataFrame(dict(step=steps, x=1 + d, loss=picky.loss(d), seed=seed)))
left.set(
    title=f"$x_t$, $\\eta$ = {picky_eta}, from $1 - 10^{{-5}}$", xlabel="step", ylabel="$x$"
)
right.set(title="objective: a burst during the escape", xlabel="step", ylabel="$f(x_t)$")
right.set_ylim(1e-19, 10)
left.legend(loc="lower left")
figures.save(fig, "picky", pd.concat(rows))

# %%
fig, ax = plt.subplots(figsize=(10, 3.6))
table = pd.concat(escapes, names=["steps", "run"]).reset_index("steps")
grid = np.linspace(0.5, 0.62, 400)
for T, color in zip(picky_steps, (ORANGE, BLUE), strict=True):
    seen = table[table.steps == T]
    curve = [picky.escape(eta, T, -picky_start, 0.42) for eta in grid]
    ax.plot(grid, curve, color=color, lw=1.2)
    ax.plot(seen.eta, seen.at_zero, "o", color=color, ms=4, mfc="none", label=f"{T} steps")
marks = picky.thresholds
for name, text, side in (
    ("mean square", "E$(1 - \\eta a)^2 = 1$", "right"),
    ("almost sure", "E log$|1 - \\eta a| = 0$", "left"),
):
    ax.axvline(marks[name], color=BLACK, ls="--", lw=1)
    shift = -0.001 if side == "right" else 0.001
    ax.text(marks[name] + shift, 1.06, text, ha=side)
ax.plot(
    seen.eta, 1 - seen.descent_at_one, "-", color=BLACK, lw=2, label="GD (threshold: 1)"
)
ax.set(xlim=(0.5, 0.62), ylim=(-0.03, 1.15), xlabel="step size $\\eta$")
ax.set_ylabel("share of runs that leave 1")
ax.legend(loc="center left", title="circles: measured; lines: predicted")
figures.save(fig, "picky_threshold", table)

# %% [markdown]
# **What to see:** above, gradient descent (black) goes to 1 at once. SGD multiplies its distance
# from 1 by +.86 or -1.66; after some tens of steps that has grown to order one, the objective
# has burst by ten orders of magnitude, and the run ends at the other minimum, where all functions
# agree: the curvature of the mean is the same there, that of the parts is not. Below, how many runs
# have left 1, against the step size. No number in the lines is fitted (a step is not small against
# the barrier, so that they are a little early at 300 steps). Longer runs make the transition
# sharper, and it moves to the almost-sure threshold (right). Up to the mean-square one (left),
# which is 1 % smaller, nobody leaves: it is a safe bound, not the critical step size of a run.

# %%
critical, none, gone = [], [], []
long = max(picky_steps)
for seed in seeds:
    seen = escapes[long, seed]
    part = seen[seen.eta <= picky_fine[1]]
    critical.append(np.interp(0.5, part.at_zero, part.eta))
    none.append(seen[seen.eta <= marks["mean square"]].at_zero.max())
    short = escapes[min(picky_steps), seed]
    gone.append(short[short.eta == picky_eta].at_zero.iloc[0])
descent = [float(~seen[seen.eta == picky_eta].descent_at_one.iloc[0])] * len(seeds)
critical = np.array(critical)
above = [escapes[long, s].query("eta == @picky_eta").at_zero.iloc[0] for s in seeds]
claims.add(
    "7.8",
    "SGD is pickier: GD stays at 1, SGD escapes to 0; linear stability predicts the critical eta",
    "001 SGD is more picky, fig 2",
    [
        Check(f"share that escapes, eta = {picky_eta}", gone, low=0.99, control=descent),
        Check("share below the mean-square threshold", none, high=0, control=above),
        Check(
            f"critical eta in {long} steps / almost-sure threshold",
            critical / marks["almost sure"],
            0.99,
            1.01,
            control=critical / marks["descent"],
        ),
    ],
    seeds,
)
ratio = critical / marks["mean square"]
print(f"thresholds: {', '.join(f'{k} {v:.4f}' for k, v in marks.items())}")
print(
    f"critical eta: {critical.round(4).tolist()}, / mean square: {ratio.round(4).tolist()}"
)

# %% [section interactive]

# %% [markdown]
# ## Try it: step size and momentum
#
# Two losses under heavy ball, $w_{t+1} = w_t - \eta\nabla L(w_t) + \beta(w_t - w_{t-1})$, which is
# gradient descent for $\beta = 0$; stable on a quadratic below $2(1 + \beta)/\eta$. Above, a
# quadratic with the eigenvalues 2.2 and 0.15; below, the valley $L = \frac12 e^{-y}x^2 + c\,e^y$ of
# [notebook 03](03_large_catapults.ipynb), whose floor gets sharper by the step, with a noise floor
# of 1e-5. **In JupyterLab (`make lab`) there are two sliders above the figure**; as stored here it
# shows their starting values.


# %%
def redraw(eta, beta):
    return heavy_ball_figure(heavy_ball_paths(eta, beta))


fig = explore(redraw, eta=slider_eta, beta=slider_beta)
figures.save(fig, "sliders", heavy_ball_paths(slider_eta[-1], slider_beta[-1]))

# %% [markdown]
# **What to see:** both start above the same threshold, or come there. The quadratic diverges; the
# valley throws the iterate to flatter ground and begins again. Try $\beta = 0.9$ (the quadratic
# converges, and the valley has one large catapult), $\eta$ = 0.9 and 0.95 at $\beta = 0$ (the
# threshold of the quadratic lies between them), or $\eta$ = 0.5 (the edge comes too late to be
# seen in 200 steps).
