package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) rollout() *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "Follow how apps change, and steer it"}
	cmd.AddCommand(
		c.rolloutStatus(),
		c.onApp("history", "Show an app's rollouts, and what each changed", c.history),
		c.undo(),
		c.onApp("promote", "Let a canary that holds replace all pods", c.promote),
		c.onApp("abort", "Give up the rollout in progress: what was healthy before is put back", c.abort))
	return cmd
}

// onApp is a command about one app.
func (c *cli) onApp(verb, short string, run func(ctx context.Context, cl *client.Client, a *api.App) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " app/<name>",
		Short:   short,
		Example: "  clusterd rollout " + verb + " app/web",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withApp(cmd.Context(), args, run)
		},
	}
}

// withApp runs f for the app that args name.
func (c *cli) withApp(ctx context.Context, args []string, f func(context.Context, *client.Client, *api.App) error) error {
	k, name, err := find(args)
	if err != nil {
		return err
	}
	if k.Info().Name != api.Apps.Name || name == "" {
		return fmt.Errorf("%q has no rollouts: want app/<name>", strings.Join(args, " "))
	}
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	a, err := client.Of(cl, api.Apps).Get(ctx, c.to.ns(), name)
	if err != nil {
		return err
	}
	return f(ctx, cl, a)
}

func (c *cli) rolloutStatus() *cobra.Command {
	cmd := c.onApp("status", "Follow a rollout to its end; exit code 1 if it failed", func(ctx context.Context, cl *client.Client, a *api.App) error {
		generation := a.Meta.Generation
		return c.follow(ctx, cl, a, func(a *api.App) *api.Rollout {
			if a.Status.ObservedGeneration < generation {
				return nil
			}
			if ro := &a.Status.Rollout; ro.Phase == api.RolloutInProgress {
				return ro
			}
			return a.Status.RolloutOf(generation)
		})
	})
	cmd.Long = `Follow a rollout to its end; exit code 1 if it failed.

It says why with the words of terraform apply. A canary that holds ends the
command too: it goes on once somebody promotes or aborts it.`
	return cmd
}

// follow prints how a rollout goes until it has ended or a canary holds. of
// picks the rollout, nil as long as it has not begun.
func (c *cli) follow(ctx context.Context, cl *client.Client, a *api.App, of func(*api.App) *api.Rollout) error {
	said := ""
	for ev, err := range client.Of(cl, api.Apps).Watch(ctx, a.Meta.Namespace, nil, 0) {
		switch {
		case err != nil:
			return err
		case ev.Object == nil || ev.Object.Meta.Name != a.Meta.Name:
			continue
		case ev.Type == api.EventDelete || ev.Object.Meta.UID != a.Meta.UID:
			return fmt.Errorf("%s was deleted", a.Ref())
		}
		now := ev.Object
		ro := of(now)
		switch {
		case ro == nil:
		case ro.Phase == api.RolloutComplete:
			fmt.Fprintf(plain{c.out}, "%s: generation %d is complete, %d of %d pods are ready\n", now.Ref(), ro.Generation, now.Status.Ready, api.Desired(now))
			return nil
		case ro.Phase == api.RolloutSuperseded:
			return fmt.Errorf("%s: another change took over from generation %d", now.Ref(), ro.Generation)
		case ro.Phase.Terminal():
			return errors.New(fateOf(now, ro))
		case !ro.HeldSince.IsZero():
			fmt.Fprintln(plain{c.out}, now.Status.Message)
			return nil
		}
		if m := now.Status.Message; m != "" && m != said {
			fmt.Fprintln(plain{c.err}, m)
			said = m
		}
	}
	return ctx.Err()
}

// fateOf tells how a rollout failed.
func fateOf(a *api.App, ro *api.Rollout) string {
	lines := []string{fmt.Sprintf("%s: rollout of generation %d %s", a.Ref(), ro.Generation, strings.ReplaceAll(string(ro.Phase), "_", " "))}
	if ro.Phase == api.RolloutRolledBack {
		lines[0] = fmt.Sprintf("%s: rollout of generation %d failed and was rolled back", a.Ref(), ro.Generation)
	}
	if ro.Cause != nil {
		lines = append(lines, ro.Cause.Story()...)
	}
	return strings.Join(lines, "\n")
}

// history prints an app's rollouts, the newest first, each with what it changed.
func (c *cli) history(_ context.Context, _ *client.Client, a *api.App) error {
	all := append([]api.Rollout{a.Status.Rollout}, a.Status.History...)
	for i, r := range all {
		if r.Generation == 0 {
			continue
		}
		line := fmt.Sprintf("#%d generation %d revision %s %s", r.Number, r.Generation, r.Revision, strings.ReplaceAll(string(r.Phase), "_", " "))
		if r.Reason != "" {
			line += " (" + r.Reason + ")"
		}
		fmt.Fprintf(plain{c.out}, "%s, begun %s\n", line, ago(r.StartedAt))
		if r.Cause != nil {
			fmt.Fprintf(plain{c.out}, "    %s: %s\n", r.Cause.Reason, r.Cause.Message)
		}
		if i+1 < len(all) && all[i+1].Generation > 0 {
			was, is := all[i+1], r
			for _, l := range slices.Concat(specDiff(was.Spec, is.Spec), mapDiff("digest", was.Images, is.Images), mapDiff("contents", was.Contents, is.Contents)) {
				fmt.Fprintf(plain{c.out}, "  %s\n", l)
			}
		}
	}
	return nil
}

// intend changes what users ask of an app's rollouts.
func intend(ctx context.Context, cl *client.Client, a *api.App, change func(*api.Intent)) error {
	next := *a
	change(&next.Status.Intent)
	_, err := client.Of(cl, api.Apps).PutPart(ctx, &next, "intent")
	return err
}

// number follows one rollout.
func number(n int64) func(*api.App) *api.Rollout {
	return func(a *api.App) *api.Rollout {
		for _, r := range append([]api.Rollout{a.Status.Rollout}, a.Status.History...) {
			if r.Number == n {
				r.HeldSince = time.Time{} // it is about to be promoted
				return &r
			}
		}
		return nil
	}
}

func (c *cli) promote(ctx context.Context, cl *client.Client, a *api.App) error {
	ro := a.Status.Rollout
	if ro.HeldSince.IsZero() {
		return fmt.Errorf("%s: no canary holds: its rollout of generation %d is %s", a.Ref(), ro.Generation, strings.ReplaceAll(string(ro.Phase), "_", " "))
	}
	if err := intend(ctx, cl, a, func(in *api.Intent) { in.Promote = ro.Number }); err != nil {
		return err
	}
	return c.follow(ctx, cl, a, number(ro.Number))
}

func (c *cli) abort(ctx context.Context, cl *client.Client, a *api.App) error {
	ro := a.Status.Rollout
	if ro.Phase != api.RolloutInProgress {
		return fmt.Errorf("%s: nothing to abort: its rollout of generation %d is %s", a.Ref(), ro.Generation, strings.ReplaceAll(string(ro.Phase), "_", " "))
	}
	if err := intend(ctx, cl, a, func(in *api.Intent) { in.Abort = ro.Number }); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: the rollout of generation %d is given up\n", a.Ref(), ro.Generation)
	return nil
}

func (c *cli) restart() *cobra.Command {
	var pull bool
	cmd := c.onApp("restart", "Replace an app's pods by new ones of the same spec", func(ctx context.Context, cl *client.Client, a *api.App) error {
		if pull {
			return c.findImages(ctx, cl, a)
		}
		stamp := api.Now()
		if err := intend(ctx, cl, a, func(in *api.Intent) { in.Restart = stamp }); err != nil {
			return err
		}
		return c.follow(ctx, cl, a, func(a *api.App) *api.Rollout {
			for _, r := range append([]api.Rollout{a.Status.Rollout}, a.Status.History...) {
				if r.Restarted.Equal(stamp) {
					return &r
				}
			}
			return nil
		})
	})
	cmd.Flags().BoolVar(&pull, "pull", false, "find out anew what the tags of its images mean, and replace the pods if that has changed")
	cmd.Example = "  clusterd restart app/web\n  clusterd restart app/web --pull"
	cmd.Long = `Replace an app's pods by new ones of the same spec.

It is a rollout like any other, and rolls back like one. What is declared stays
as it is, Terraform shows no change, and the images are the same, whatever their
tags mean by now: with --pull they are what the tags mean now.`
	return cmd
}

const driftNote = "what is declared has changed: unless the configuration says the same, the next terraform plan shows it as drift and takes it back"

// declare changes what is declared, if nobody else did meanwhile, and follows it.
func (c *cli) declare(ctx context.Context, cl *client.Client, a *api.App, change func(json.RawMessage) (json.RawMessage, error)) error {
	apps := client.Of(cl, api.Apps)
	was, err := apps.GetDeclared(ctx, a.Meta.Namespace, a.Meta.Name)
	if err != nil {
		return err
	}
	generation := was.Meta.Generation
	if was.Spec, err = change(was.Spec); err != nil {
		return err
	}
	return c.declared(ctx, cl, a, generation, func() (*api.App, error) { return apps.ReplaceDeclared(ctx, was, generation) })
}

// putBack declares what an earlier rollout did, with the images that it ran.
func (c *cli) putBack(ctx context.Context, cl *client.Client, a *api.App, before api.Rollout) error {
	apps := client.Of(cl, api.Apps)
	was, err := apps.GetDeclared(ctx, a.Meta.Namespace, a.Meta.Name)
	if err != nil {
		return err
	}
	generation := was.Meta.Generation
	was.Spec = before.Spec
	return c.declared(ctx, cl, a, generation, func() (*api.App, error) { return apps.PutBack(ctx, was, generation, before.Number) })
}

// declared follows what a write of an app's declaration comes to.
func (c *cli) declared(ctx context.Context, cl *client.Client, a *api.App, generation int64, write func() (*api.App, error)) error {
	now, err := write()
	if err != nil {
		return err
	}
	if now.Meta.Generation == generation {
		fmt.Fprintf(c.out, "%s: that is declared already\n", a.Ref())
		return nil
	}
	fmt.Fprintf(c.err, "%s: generation %d; %s\n", a.Ref(), now.Meta.Generation, driftNote)
	return c.followGeneration(ctx, cl, a, now)
}

// findImages has the digests of an app's images found anew.
func (c *cli) findImages(ctx context.Context, cl *client.Client, a *api.App) error {
	apps := client.Of(cl, api.Apps)
	was, err := apps.GetDeclared(ctx, a.Meta.Namespace, a.Meta.Name)
	if err != nil {
		return err
	}
	now, err := apps.FindImages(ctx, was, was.Meta.Generation)
	if err != nil {
		return err
	}
	if now.Meta.Generation == was.Meta.Generation {
		fmt.Fprintf(c.out, "%s: its images are what they were; nothing is replaced\n", a.Ref())
		return nil
	}
	for _, l := range mapDiff("digest", api.DigestsOf(a.Spec.Template(), a.Effective.Template()), api.DigestsOf(now.Spec.Template(), now.Effective.Template())) {
		fmt.Fprintf(plain{c.err}, "  %s\n", l)
	}
	return c.followGeneration(ctx, cl, a, now)
}

// followGeneration follows the rollout of what was written.
func (c *cli) followGeneration(ctx context.Context, cl *client.Client, a, now *api.App) error {
	return c.follow(ctx, cl, a, func(a *api.App) *api.Rollout {
		if a.Status.ObservedGeneration < now.Meta.Generation {
			return nil
		}
		return a.Status.RolloutOf(now.Meta.Generation)
	})
}

func (c *cli) undo() *cobra.Command {
	var to int64
	cmd := c.onApp("undo", "Declare what was healthy before once more, as a new generation", func(ctx context.Context, cl *client.Client, a *api.App) error {
		now := a.Status.Rollout
		i := slices.IndexFunc(a.Status.History, func(r api.Rollout) bool {
			if to > 0 {
				return r.Generation == to && r.Phase == api.RolloutComplete
			}
			return r.Phase == api.RolloutComplete && (len(specDiff(counted(r.Spec, now.Spec), now.Spec)) > 0 || !maps.Equal(r.Images, now.Images))
		})
		if i < 0 && to > 0 {
			return fmt.Errorf("%s: generation %d is not a healthy one of its history: clusterd rollout history app/%s shows those", a.Ref(), to, a.Meta.Name)
		}
		if i < 0 {
			return fmt.Errorf("%s: its history has no other healthy spec to put back", a.Ref())
		}
		before := a.Status.History[i]
		if to == 0 {
			before.Spec = counted(before.Spec, now.Spec)
		}
		fmt.Fprintf(c.err, "%s: puts back generation %d\n", a.Ref(), before.Generation)
		for _, l := range append(specDiff(now.Spec, before.Spec), mapDiff("digest", now.Images, before.Images)...) {
			fmt.Fprintf(plain{c.err}, "  %s\n", l)
		}
		err := c.putBack(ctx, cl, a, before)
		if err == nil {
			_ = cl.Record(ctx, a.Ref(), api.Event{Reason: "undone", By: "clusterd rollout undo",
				Message: fmt.Sprintf("generation %d was put back by hand", before.Generation)})
		}
		return err
	})
	cmd.Flags().Int64Var(&to, "to", 0, "generation to put back as it was; by default the last healthy one that differs in more than how many pods it had, which stays as it is")
	return cmd
}

// counted is an earlier spec with as many pods as there are to be now: what went
// wrong since is hardly their number. Where either has none, it is as it was.
func counted(before, now json.RawMessage) json.RawMessage {
	var was, is map[string]json.RawMessage
	if json.Unmarshal(before, &was) != nil || json.Unmarshal(now, &is) != nil || was["per_node"] != nil || is["per_node"] != nil {
		return before
	}
	for _, field := range []string{"replicas", "scale"} {
		delete(was, field)
		if is[field] != nil {
			was[field] = is[field]
		}
	}
	out, err := json.Marshal(was)
	if err != nil {
		return before
	}
	return out
}

func (c *cli) scale() *cobra.Command {
	return &cobra.Command{
		Use:     "scale app/<name> <replicas>",
		Short:   "Declare how many pods an app keeps running",
		Example: "  clusterd scale app/web 5",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 {
				return fmt.Errorf("%q is not a number of pods", args[1])
			}
			return c.withApp(cmd.Context(), args[:1], func(ctx context.Context, cl *client.Client, a *api.App) error {
				if a.Spec.Scale != nil || api.Deref(a.Spec.PerNode) {
					return fmt.Errorf("%s: its number of pods follows its load or the nodes: change scale or per_node in its declaration", a.Ref())
				}
				return c.declare(ctx, cl, a, func(spec json.RawMessage) (json.RawMessage, error) {
					fields := map[string]json.RawMessage{}
					if err := json.Unmarshal(spec, &fields); err != nil {
						return nil, fmt.Errorf("read what is declared: %w", err)
					}
					fields["replicas"] = json.RawMessage(strconv.Itoa(n))
					return json.Marshal(fields)
				})
			})
		},
	}
}
