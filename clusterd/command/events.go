package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func (c *cli) events() *cobra.Command {
	var follow, all, warnings bool
	cmd := &cobra.Command{
		Use:   "events [<kind>/<name>]",
		Short: "Tell what happened, oldest first",
		Long:  "Tell what happened, oldest first. With -f the last 20 events come first, and then what happens.",
		Example: `  clusterd events
  clusterd events -f -A
  clusterd events app/web
  clusterd events node/w2`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.complete(),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := query{kind: api.EventRings, ns: c.to.ns()}
			if all {
				q.ns = ""
			}
			if len(args) > 0 {
				k, name, err := find(args)
				if err != nil {
					return err
				}
				if name == "" {
					return fmt.Errorf("which one? want: clusterd events %s/<name>", args[0])
				}
				subject := api.Ref{Kind: k.Info().Name, Name: name}
				if k.Info().Scope == api.Namespaced {
					subject.Namespace = c.to.ns()
				}
				at := api.EventsOf(subject)
				q.ns, q.name = at.Namespace, at.Name
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			p := &eventPrinter{out: plain{c.out}, err: plain{c.err}, warnings: warnings, shown: map[string]shownEvent{}}
			if !follow {
				items, _, err := q.list(cmd.Context(), cl)
				if api.Is(err, api.NotFound) { // nothing has happened to it
					return nil
				}
				if err != nil {
					return err
				}
				return p.print(items)
			}
			return p.follow(cmd.Context(), c, q)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on telling what happens")
	f.BoolVarP(&all, "all-namespaces", "A", false, "events of all namespaces")
	f.BoolVar(&warnings, "warnings", false, "only what went wrong")
	return cmd
}

// eventPrinter prints each event once, and again when it has happened again.
type eventPrinter struct {
	out, err io.Writer
	warnings bool
	most     int // how many of what is there at first are told; 0: all
	shown    map[string]shownEvent
}

type shownEvent struct {
	count int
	last  time.Time
}

// print prints what is new in rings, in the order it happened.
func (p *eventPrinter) print(rings []json.RawMessage) error {
	type line struct {
		subject api.Ref
		api.Event
	}
	var fresh []line
	for _, raw := range rings {
		var ring api.Events
		if err := json.Unmarshal(raw, &ring); err != nil {
			return fmt.Errorf("decode events: %w", err)
		}
		for _, e := range ring.Spec.Entries {
			key := strings.Join([]string{ring.Spec.Subject.String(), e.Reason, e.Message, e.First.String()}, "\x00")
			now := shownEvent{e.Count, e.Last}
			if p.shown[key] == now || p.warnings && !e.Warning {
				continue
			}
			p.shown[key] = now
			fresh = append(fresh, line{ring.Spec.Subject, e})
		}
	}
	slices.SortStableFunc(fresh, func(a, b line) int { return a.Last.Compare(b.Last) })
	if older := len(fresh) - p.most; p.most > 0 && older > 0 {
		fresh = fresh[older:]
		fmt.Fprintf(p.err, "%d older events are left out; without -f all are told.\n", older)
	}
	p.most = 0
	for _, e := range fresh {
		mark, times := " ", ""
		if e.Warning {
			mark = "!"
		}
		if e.Count > 1 {
			times = fmt.Sprintf(" (%d times)", e.Count)
		}
		if _, err := fmt.Fprintf(p.out, "%s %s %-28s %-18s %s%s\n", e.Last.Local().Format("15:04:05"), mark, e.subject, e.Reason, e.Message, times); err != nil {
			return err
		}
	}
	return nil
}

// recent is how many events are told before those that are waited for.
const recent = 20

// follow prints the last of what there is, and then what happens until ctx ends.
func (p *eventPrinter) follow(ctx context.Context, c *cli, q query) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p.most = recent
	w := watcher{q: q, c: cl, known: map[api.Ref]json.RawMessage{}, show: func(news ...change) error {
		var happened []json.RawMessage // together, so that they are in order
		for _, ev := range news {
			if ev.Type == api.EventPut {
				happened = append(happened, ev.Object)
			}
		}
		return p.print(happened)
	}}
	return w.run(ctx)
}
