//go:build !race

package provider_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// subject is a kind of resource, and what its attributes are set to, one after
// another. Attributes are JSON, which HCL reads as it is.
type subject struct {
	kind api.Info
	// always is in every configuration.
	always string
	// changes are made in place, each from and back to always.
	changes []string
	// replaces make another object.
	replaces []string
	// forward are changes that nobody can take back: they come last.
	forward []string
	// silent are attributes with values that only the configuration has.
	silent []string
	// never are attributes that the kind has and refuses.
	never []string
	// prepare makes what the object needs, in its namespace.
	prepare func(t *testing.T, c *cluster, namespace string)
	// again makes what went with an object that was deleted.
	again func()
}

// asks are the ways to ask a container how it is.
var asks = [...]string{`"http": "/up"`, `"tcp": true`, `"exec": ["/up", "-q"]`, `"grpc": "web.v1"`}

// check is one of them, health one for each of what a container is asked.
func check(i int) string {
	return asks[i%len(asks)] + `, "port": 8080, "interval": "3s", "timeout": "2s", "threshold": 4`
}

func health(i int) string {
	return fmt.Sprintf(`{%s, "grace_period": "7s", "start": {%s}, "ready": {%s}, "live": {%s}}`, check(i), check(i+1), check(i+2), check(i+3))
}

// process is what every container has, whatever it is for.
const process = `
	"command": ["/bin/it", "-v"], "args": ["--all"], "env": {"LEVEL": "info", "PORT": 8080},
	"cpu": "50m", "memory": "32Mi", "limits": {"cpu": 1, "memory": "64Mi", "pids": 100},
	"secrets": {"URL": "db/url"}, "configs": {"MODE": "web/mode"},
	"files": {"/etc/it/a": {"content": "hello\n", "mode": "0444"}, "/etc/it/b": {"config": "web/mode"}, "/run/it/c": {"secret": "db/url", "mode": "0400"}},
	"mounts": {"/data": {"volume": "data", "read_only": true}, "/tmp": {"scratch": "8Mi"}, "/logs": {"host": "/var/log"}},
	"security": {"user": "10001:10001", "read_only_root": true, "add": ["NET_ADMIN"], "drop": ["ALL"], "no_new_privileges": true,
		"seccomp": "unconfined", "devices": ["/dev/fuse"], "privileged": true}`

// template is what pods of apps and jobs have beside their main container.
var template = []string{
	"{" + process + "}",
	`{"health": ` + health(0) + `}`, `{"health": ` + health(1) + `}`, `{"health": ` + health(2) + `}`, `{"health": ` + health(3) + `}`,
	`{"ports": {"http": 80, "dns": "53/udp"}}`,
	`{"init": {"first": {"image": "setup:1", ` + process + `}, "then": {}}}`,
	`{"sidecars": {"log": {"image": "vector:1", "ports": {"metrics": 9100}, "health": ` + health(0) + `, ` + process + `}}}`,
	`{"sidecars": {"log": {"image": "vector:1", "health": ` + health(1) + `}, "mesh": {"image": "mesh:1", "health": ` + strings.ReplaceAll(health(2), "8080", "8081") + `}}}`,
	`{"sidecars": {"log": {"image": "vector:1", "health": ` + health(3) + `}}}`,
	`{"placement": {"require": {"disk": "ssd|nvme", "zone": "!b"}, "prefer": {"arch": "amd64"}, "spread": "zone", "max_skew": 1, "one_per": "node",
		"affinity": {"cache": "node"}, "anti_affinity": {"batch": "zone"}, "tolerate": ["dedicated=shop", "spot"], "priority": 70}}`,
	`{"restart": {"backoff": "2s", "max_backoff": "30s", "reset_after": "5m", "attempts": 3}}`,
	`{"stop": {"signal": "SIGINT", "pre_stop": ["/bin/drain"], "grace_period": "2s"}}`,
	`{"host_network": true}`,
	`{"pull": "always", "pull_auth": "db"}`,
	`{"labels": {"team": "shop"}}`,
}

// options are about how to apply: changes that the cluster never sees.
var options = []string{`{"adopt": true}`, `{"wait": false}`, `{"on_create_failure": "delete"}`, `{"timeouts": {"create": "2m", "update": "2m", "delete": "1m"}}`}

// all gives a namespace every power, and the contents that containers name.
func all(t *testing.T, c *cluster, namespace string) {
	t.Helper()
	_, err := client.Of(c.Client(), api.Namespaces).Put(t.Context(), &api.Namespace{Meta: api.Meta{Name: namespace}, Spec: api.NamespaceSpec{Powers: &api.Powers{
		Privileged: new(true), HostNetwork: new(true), HostPaths: []string{"/var/log"}, Devices: []string{"/dev/fuse"}, Capabilities: []string{"NET_ADMIN"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(c.Client(), api.Configs).Create(t.Context(), &api.Config{Meta: api.Meta{Namespace: namespace, Name: "web"}, Spec: api.ConfigSpec{Data: map[string]string{"mode": "fast"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(c.Client(), api.Secrets).Create(t.Context(), &api.Secret{Meta: api.Meta{Namespace: namespace, Name: "db"}, Spec: api.SecretSpec{Data: map[string]string{"url": "one", "username": "me", "password": "mine"}}}); err != nil {
		t.Fatal(err)
	}
}

// subjects are the kinds, each with something for every attribute it has.
var subjects = map[string]*subject{
	"App": {
		kind: api.Apps.Info(), prepare: all,
		always: `{"name": "web", "image": "nginx:1", "replicas": 0, "update": {"healthy_for": "0s"}}`,
		changes: append(append([]string{
			`{"image": "nginx:2"}`,
			`{"replicas": 2}`,
			`{"replicas": null, "scale": {"min": 1, "max": 3, "cpu": 70, "memory": 80, "down_window": "1m", "up_window": "1s"}}`,
			`{"replicas": null, "per_node": true}`,
			`{"stateful": {"on_isolation": "keep", "order": "parallel"}, "mounts": {"/data": {"volume": "data", "size": "64Mi"}},
				"init": {"first": {"mounts": {"/data": {"volume": "data", "size": "64Mi"}}}}, "sidecars": {"log": {"image": "log:1", "mounts": {"/data": {"volume": "data", "size": "64Mi"}}}}}`,
			`{"update": {"strategy": "recreate", "max_parallel": 2, "surge": 0, "min_available": 0, "healthy_for": "1s", "deadline": "1m", "failure_budget": 1, "on_failure": "pause"}}`,
			`{"update": {"strategy": "rolling", "canary": 1, "auto_promote": "1s", "healthy_for": "0s"}}`,
			`{"deletion_protection": true}`,
		}, template...), options...),
		replaces: []string{`{"name": "web2"}`, `{"namespace": "default"}`},
	},
	"Job": {
		kind: api.Jobs.Info(), prepare: all,
		always: `{"name": "mend", "image": "exit-0:1", "suspend": true}`,
		changes: append(append([]string{
			`{"image": "exit-0:2"}`,
			`{"completions": 3, "parallelism": 2, "retries": 1, "deadline": "1h", "keep": 2}`,
			`{"triggers": {"schema": 1}}`,
			`{"schedule": "0 0 1 1 *", "time_zone": "Europe/Berlin", "concurrency": "replace", "catch_up": "10m"}`,
			`{"suspend": false}`,
			`{"deletion_protection": true}`,
		}, template...), options...),
		replaces: []string{`{"name": "mend2"}`, `{"namespace": "default"}`},
		never:    []string{"mounts.*.size", "init.*.mounts.*.size", "sidecars.*.mounts.*.size"},
	},
	"Config": {
		kind:   api.Configs.Info(),
		always: `{"name": "web", "data": {"mode": "fast"}}`,
		changes: []string{
			`{"data": {"mode": "slow", "nginx.conf": "events {}\n"}}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"wait": false}`, `{"timeouts": {"create": "1m", "update": "1m", "delete": "1m"}}`,
		},
		replaces: []string{`{"name": "web2"}`, `{"namespace": "default"}`},
	},
	"Secret": {
		kind:   api.Secrets.Info(),
		always: `{"name": "db", "data_wo": {"url": "one"}}`,
		changes: []string{
			`{"data_wo": {"url": "two", "user": "me"}}`,
			`{"generate": {"password": {"length": 40, "charset": "hex", "version": 2}}}`,
			`{"data_wo_version": 1}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"wait": false}`, `{"timeouts": {"create": "1m", "update": "1m", "delete": "1m"}}`,
		},
		replaces: []string{`{"name": "db2"}`, `{"namespace": "default"}`},
		silent:   []string{"data_wo", "hash"},
	},
	"Service": {
		kind:   api.Services.Info(),
		always: `{"name": "web", "app": "web", "ports": {"http": {"port": 80}}}`,
		changes: []string{
			`{"app": "api"}`,
			`{"ports": {"http": {"port": 8080, "target": 80, "node_port": 31907, "protocol": "tcp"}, "dns": {"port": 53, "target": "dns", "protocol": "udp"}}}`,
			`{"affinity": "client_ip"}`,
			`{"ip": "10.96.66.6"}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"timeouts": {"delete": "1m"}}`,
		},
		replaces: []string{`{"name": "web2"}`, `{"namespace": "default"}`},
	},
	"Namespace": {
		kind:   api.Namespaces.Info(),
		always: `{"name": "walked"}`,
		changes: []string{
			`{"description": "A team."}`,
			`{"quota": {"cpu": 4, "memory": "8Gi", "replicas": 10, "volumes": 3, "storage": "10Gi"}}`,
			`{"defaults": {"cpu": "50m", "memory": "64Mi"}}`,
			`{"powers": {"privileged": true, "host_network": true, "host_paths": ["/srv"], "devices": ["/dev/fuse"], "capabilities": ["NET_ADMIN"], "node_ports": false}}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"timeouts": {"delete": "1m"}}`,
		},
		replaces: []string{`{"name": "walked2"}`},
	},
	"Role": {
		kind:   api.Roles.Info(),
		always: `{"name": "walked", "rules": {"read": {"namespaces": ["default"], "kinds": ["apps"], "verbs": ["read"]}}}`,
		changes: []string{
			`{"description": "Those who look."}`,
			`{"rules": {"read": {"namespaces": ["default", "shop"], "kinds": ["apps", "pods"], "verbs": ["read", "logs"]}, "nodes": {"kinds": ["nodes"], "verbs": ["*"]}}}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"timeouts": {"delete": "1m"}}`,
		},
		replaces: []string{`{"name": "walked2"}`},
	},
	"Token": {
		kind:   api.Tokens.Info(),
		always: `{"name": "walked", "role": "admin", "secret_wo": "0123456789abcdefghijklmnopqrstuvwxyzABCD"}`,
		changes: []string{
			`{"secret_wo": "1123456789abcdefghijklmnopqrstuvwxyzABCD"}`,
			`{"description": "For CI."}`,
			`{"expires_at": "2099-12-31T23:59:59+01:00"}`,
			`{"role": null, "roles": ["looks", "walks"]}`,
			`{"secret_wo_version": 1}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"timeouts": {"delete": "1m"}}`,
		},
		replaces: []string{`{"name": "walked2"}`},
		silent:   []string{"secret_wo", "hash"},
		prepare: func(t *testing.T, c *cluster, _ string) {
			for _, name := range []string{"looks", "walks"} {
				role := &api.Role{Meta: api.Meta{Name: name}, Spec: api.RoleSpec{Rules: map[string]api.Rule{"read": {Kinds: []string{"nodes"}, Verbs: []string{"read"}}}}}
				if _, err := client.Of(c.Client(), api.Roles).Create(t.Context(), role); err != nil {
					t.Fatal(err)
				}
			}
		},
	},
	"Volume": {
		kind:   api.Volumes.Info(),
		always: `{"name": "data", "size": "64Mi", "deletion_protection": false}`,
		changes: []string{
			`{"deletion_protection": true}`,
			`{"labels": {"team": "shop"}}`,
			`{"adopt": true}`, `{"timeouts": {"delete": "1m"}}`,
		},
		forward:  []string{`{"node": "w1"}`, `{"node": "w1", "size": "128Mi"}`},
		replaces: []string{`{"name": "data2"}`, `{"namespace": "default"}`},
	},
}
