package command

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) job() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Run jobs by hand"}
	cmd.AddCommand(c.runJob())
	return cmd
}

// noticed is how long the servers may take to begin what was asked for.
const noticed = 30 * time.Second

func (c *cli) runJob() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "run <job>",
		Short: "Start a run of a job now, as it is declared, also of one that is suspended",
		Example: `  clusterd job run report
  clusterd job run migrate --wait`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(api.Jobs),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			jobs := client.Of(cl, api.Jobs)
			job, err := jobs.Get(cmd.Context(), c.to.ns(), strings.TrimPrefix(args[0], "job/"))
			if err != nil {
				return err
			}
			// A letter first: a tick's name begins with a digit.
			word := "m" + strings.ToLower(rand.Text()[:6])
			job.Status.Intent = api.JobIntent{Run: word, At: api.Now()}
			asked, err := jobs.PutPart(cmd.Context(), job, "intent")
			if err != nil {
				return err
			}
			run, err := c.awaitRun(cmd.Context(), jobs, asked, word, wait)
			if err != nil {
				return err
			}
			switch run.Phase {
			case api.RunSkipped:
				return fmt.Errorf("%s does not begin: %s", run.Name, run.Message)
			case api.RunFailed, api.RunCancelled:
				lines := []string{fmt.Sprintf("run %s %s: %s", run.Name, run.Phase, run.Message)}
				if run.Cause != nil {
					lines = append(lines, run.Cause.Story()...)
				}
				return errors.New(strings.Join(lines, "\n"))
			}
			fmt.Fprintf(c.out, "run/%s %s\n", run.Name, run.Phase)
			return nil
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the run has ended, and fail if it failed")
	return cmd
}

// awaitRun waits until the run that was asked for by word has begun, or has
// ended.
func (c *cli) awaitRun(ctx context.Context, jobs *client.Kind[*api.Job], job *api.Job, word string, end bool) (api.Run, error) {
	late, cancel := context.WithTimeout(ctx, noticed)
	defer cancel()
	begun := false
	for from := job.Meta.Revision; ; {
		watching := late
		if begun {
			watching = ctx
		}
		for ev, err := range jobs.Watch(watching, job.Meta.Namespace, nil, from) {
			if err != nil {
				break
			}
			from = ev.Revision
			if ev.Object == nil || ev.Object.Meta.Name != job.Meta.Name {
				continue
			}
			if ev.Type == api.EventDelete {
				return api.Run{}, fmt.Errorf("%s was deleted", job.Ref())
			}
			for _, run := range ev.Object.Status.Runs {
				if !strings.HasSuffix(run.Name, "-"+word) {
					continue
				}
				if !end || run.Phase.Ended() {
					return run, nil
				}
				if !begun {
					fmt.Fprintf(plain{c.err}, "run/%s begins\n", run.Name)
				}
				begun = true
			}
			if begun && watching != ctx {
				break
			}
		}
		switch {
		case ctx.Err() != nil:
			return api.Run{}, ctx.Err()
		case !begun && late.Err() != nil:
			return api.Run{}, fmt.Errorf("nobody began the run within %s: is there a leading server? It begins once there is", noticed)
		}
		select { // the stream broke: go on after a moment
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
