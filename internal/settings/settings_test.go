package settings

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// daemon is a command with a flag of each type that ours have.
type daemon struct {
	name   string
	join   []string
	labels map[string]string
	lease  time.Duration
	port   int
	leave  bool
	token  string
	addr   string // of its parent
}

// start runs the daemon with a file of settings, if there is one.
func start(t *testing.T, file string, args ...string) (d daemon, err error) {
	t.Helper()
	root := &cobra.Command{Use: "root", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringVar(&d.addr, "addr", "", "")
	ran := false
	cmd := &cobra.Command{Use: "daemon", RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
	f := cmd.Flags()
	f.StringVar(&d.name, "name", "default", "")
	f.StringSliceVar(&d.join, "join", []string{"default"}, "")
	f.StringToStringVar(&d.labels, "labels", nil, "")
	f.DurationVar(&d.lease, "lease", 20*time.Second, "")
	f.IntVar(&d.port, "gossip-port", 7946, "")
	f.BoolVar(&d.leave, "leave", false, "")
	f.StringVar(&d.token, "token", "", "")
	Attach(cmd, "token")
	root.AddCommand(cmd)
	args = append([]string{"daemon"}, args...)
	if file != "" {
		path := filepath.Join(t.TempDir(), "d.hcl")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	root.SetArgs(args)
	if err = root.Execute(); err == nil && !ran {
		err = errors.New("the daemon did not run")
	}
	return d, err
}

func TestFileSaysWhatFlagsSay(t *testing.T) {
	d, err := start(t, `
# a comment
name        = "web"
join        = ["10.0.0.1", "10.0.0.2:7443"]
labels      = { zone = "a", "rack" = 7, note = "x,y" }
lease       = "1m"
gossip_port = 7000
leave       = true
`)
	if err != nil {
		t.Fatal(err)
	}
	if d.name != "web" || strings.Join(d.join, " ") != "10.0.0.1 10.0.0.2:7443" || d.lease != time.Minute || d.port != 7000 || !d.leave {
		t.Errorf("got %+v", d)
	}
	if len(d.labels) != 3 || d.labels["zone"] != "a" || d.labels["rack"] != "7" || d.labels["note"] != "x,y" {
		t.Errorf("labels %v", d.labels)
	}
}

func TestFlagOverEnvironmentOverFile(t *testing.T) {
	const file = `
name = "file"
join = ["file"]
`
	for _, c := range []struct {
		name, file, env string
		args            []string
		want            string
	}{
		{"default", "", "", nil, "default"},
		{"file", file, "", nil, "file"},
		{"environment", file, "env", nil, "env"},
		{"flag", file, "env", []string{"--name", "flag", "--join", "flag"}, "flag"},
		{"flag without file", "", "env", []string{"--name", "flag", "--join", "flag"}, "flag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("CLUSTERD_NAME", c.env)
			t.Setenv("CLUSTERD_JOIN", c.env)
			d, err := start(t, c.file, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d.name != c.want || len(d.join) != 1 || d.join[0] != c.want {
				t.Errorf("got %s and %v, want %s", d.name, d.join, c.want)
			}
		})
	}
}

func TestFileByEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.hcl")
	if err := os.WriteFile(path, []byte(`name = "web"`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CLUSTERD_CONFIG", path)
	if d, err := start(t, ""); err != nil || d.name != "web" {
		t.Errorf("got %q, %v", d.name, err)
	}
}

// TestSecretsHaveTheirOwnWays: what is excepted comes from the command line
// alone, so a user's CLUSTERD_TOKEN is no machine's join token.
func TestSecretsHaveTheirOwnWays(t *testing.T) {
	t.Setenv("CLUSTERD_TOKEN", "CU1.user")
	t.Setenv("CLUSTERD_ADDR", "https://elsewhere")
	d, err := start(t, "")
	if err != nil || d.token != "" || d.addr != "" {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := start(t, `token = "CJ1.x"`); err == nil || strings.Contains(err.Error(), "CJ1.x") {
		t.Errorf("a token in the file: %v", err)
	}
}

func TestMistakesSayWhereAndTheWayOut(t *testing.T) {
	for file, want := range map[string]string{
		"name = \"a\"\nnick = \"b\"\n":    "d.hcl:2: no setting is called nick: want one of gossip_port, ",
		"colour = 1":                      "d.hcl:1: no setting is called colour: want one of gossip_port, join, labels, lease, leave, name",
		"addr = \"x\"":                    "d.hcl:1: no setting is called addr",
		"gossip-port = 1":                 "d.hcl:1: ",
		"join = \"10.0.0.1\"":             "d.hcl:1: join: want a list, such as [\"a\", \"b\"]",
		"labels = [\"a\"]":                "d.hcl:1: labels: want a map",
		"\nname = [\"a\"]":                "d.hcl:2: name: want one value",
		"name = null":                     "d.hcl:1: name: null is no value",
		"join = [null]":                   "d.hcl:1: join: want a string, a number or a bool",
		"name = other":                    "d.hcl:1: name: Variables not allowed",
		"gossip_port = \"many\"":          "d.hcl:1: gossip_port: ",
		"gossip_port = 1.5":               "d.hcl:1: gossip_port: ",
		"server {\n  name = \"a\"\n}\n":   "d.hcl:1: Unexpected",
		"name = \"a\nlease = \"1m\"\n":    "d.hcl:1: ",
		"name = \"a\"\nname = \"b\"\n":    "d.hcl:2: Attribute redefined",
		"lease = \"soon\"\nname = \"a\"":  "d.hcl:1: lease: ",
		"leave = \"perhaps\"":             "d.hcl:1: leave: ",
		"join = { a = \"b\" }":            "d.hcl:1: join: want a list",
		"labels = { zone = [\"a\"] }":     "d.hcl:1: labels: want a string, a number or a bool",
		"labels = { zone = [1, 2], b=1 }": "d.hcl:1: labels: want a string",
	} {
		_, err := start(t, file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", file, err, want)
		}
	}
	if _, err := start(t, "", "--config", "/nowhere/d.hcl"); err == nil || !strings.Contains(err.Error(), "--config: ") {
		t.Errorf("no file: %v", err)
	}
	t.Setenv("CLUSTERD_GOSSIP_PORT", "many")
	if _, err := start(t, ""); err == nil || !strings.Contains(err.Error(), "CLUSTERD_GOSSIP_PORT: want what --gossip-port takes") {
		t.Errorf("environment: %v", err)
	}
}

// TestMistakeIsFoundThoughAFlagWins: a file is right or wrong by itself.
func TestMistakeIsFoundThoughAFlagWins(t *testing.T) {
	if _, err := start(t, "name = other", "--name", "a"); err == nil {
		t.Error("the file's mistake went unnoticed")
	}
}
