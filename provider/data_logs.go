package provider

import (
	"bufio"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// logsView is the last lines of an app's pods.
type logsView struct {
	Namespace string             `json:"namespace" doc:"Namespace of the app. Default: the provider's."`
	Pods      map[string]logView `json:"pods" doc:"The last lines by pod."`
}

type logView struct {
	Lines []string `json:"lines" doc:"The last lines the container wrote, oldest first."`
	Error string   `json:"error" doc:"Why there are none: the pod has not begun, or its node does not answer."`
}

const (
	defaultTail = 20
	mostTail    = 1000
)

// newLogsData returns the data source clusterd_logs.
func newLogsData() datasource.DataSource {
	return &dataSource[logsView]{
		name: "logs", doc: "The last lines that the pods of an app wrote. They end up in the state: do not read logs that hold secrets.",
		inputs: map[string]schema.Attribute{
			"app":       schema.StringAttribute{Required: true, MarkdownDescription: "The app."},
			"namespace": inputNamespace,
			"container": schema.StringAttribute{Optional: true, MarkdownDescription: "The container. Default: the main one."},
			"tail":      schema.NumberAttribute{Optional: true, MarkdownDescription: "How many lines of each pod, at most 1000. Default: `20`."},
			"previous":  schema.BoolAttribute{Optional: true, MarkdownDescription: "Of the container's run before this one. Default: `false`."},
		},
		read: readLogs,
	}
}

func readLogs(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *logsView {
	app, _ := in.text("app")
	v := &logsView{Namespace: c.namespaceOf(in), Pods: map[string]logView{}}
	if _, err := client.Of(c.client, api.Apps).Get(ctx, v.Namespace, app); err != nil {
		diags.AddAttributeError(path.Root("app"), "Cannot read app "+v.Namespace+"/"+app, sentence(err.Error()))
		return nil
	}
	tail := in.number("tail", defaultTail)
	if tail < 0 || tail > mostTail {
		diags.AddAttributeError(path.Root("tail"), "Bad tail", "Want 0 to "+strconv.Itoa(mostTail)+".")
		return nil
	}
	q := url.Values{"tail": {strconv.Itoa(tail)}}
	if container, ok := in.text("container"); ok {
		q.Set("container", container)
	}
	if in.flag("previous", false) {
		q.Set("previous", "true")
	}
	for _, p := range listAll(ctx, c, api.Pods, v.Namespace, client.By("app", app), diags) {
		lines, err := c.logLines(ctx, &p.Meta, q)
		log := logView{Lines: lines}
		if err != nil {
			log.Error = err.Error()
		}
		v.Pods[p.Meta.Name] = log
	}
	return v
}

func (c *cluster) logLines(ctx context.Context, pod *api.Meta, q url.Values) (lines []string, err error) {
	resp, err := c.client.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(api.Pods.Info(), pod.Namespace, pod.Name) + "/logs", Query: q})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		lines = append(lines, strings.ToValidUTF8(s.Text(), "\u00b7"))
	}
	return slices.Clip(lines), s.Err()
}
