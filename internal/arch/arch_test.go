// Package arch holds the walls of the house as tests: who may import whom,
// that every package says what it is for, and that no file outgrows one idea.
package arch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/clusterd/terraform-provider-clusterd/"

// A rule names what a package, and all below it, may import: packages of ours,
// and prefixes of foreign modules. The longest matching path wins.
type rule struct{ ours, foreign string }

// Libraries that several rooms share.
const (
	log  = "github.com/hashicorp/go-hclog"
	cli  = "github.com/spf13/cobra"
	term = "golang.org/x/term"
	sys  = "golang.org/x/sys"
)

var rules = map[string]rule{
	"internal/api":         {"internal/cron", ""},
	"internal/cron":        {"", "github.com/robfig/cron"},
	"internal/wire":        {"", "github.com/go-json-experiment/json"},
	"internal/client":      {"internal/api internal/wire", ""},
	"internal/reconcile":   {"internal/api internal/client", log},
	"internal/gossip":      {"", log + " github.com/hashicorp/memberlist"},
	"internal/pki":         {"", ""},
	"internal/tunnel":      {"", log + " github.com/hashicorp/yamux golang.org/x/sys/unix"},
	"internal/registry":    {"", "github.com/containerd github.com/distribution/reference"},
	"internal/daemon":      {"", log + " github.com/prometheus"},
	"internal/settings":    {"", cli + " github.com/spf13/pflag github.com/hashicorp/hcl"},
	"internal/testcluster": {"internal clusterd nodeagent", log},
	"internal/historytest": {"internal/api internal/client", "github.com/anishathalye/porcupine"},
	"internal/sim":         {"internal/api internal/client internal/pki internal/reconcile", log},
	"internal/machinetest": {"internal/api", ""},
	"internal/golden":      {"", "golang.org/x/tools/txtar"},
	"internal/arch":        {"", ""},
	"internal/etcdtest":    {"", "go.etcd.io/etcd go.uber.org/zap"},
	"internal/guidetest":   {"", cli},
	"internal/testbuild":   {"", ""},

	"clusterd":                          {"clusterd/command", ""},
	"clusterd/command":                  {"internal clusterd/server clusterd/dev", log + " " + cli + " " + term + " " + sys},
	"clusterd/server":                   {"internal/api internal/client internal/daemon internal/gossip internal/pki internal/reconcile internal/registry internal/tunnel clusterd/apiserver clusterd/keys clusterd/controller clusterd/scheduler", log + " github.com/prometheus gopkg.in/natefinch/lumberjack.v2"},
	"clusterd/apiserver":                {"internal/api internal/client internal/pki internal/wire clusterd/apiserver clusterd/keys", log + " github.com/danielgtaylor/huma github.com/google/btree golang.org/x/sync"},
	"clusterd/keys":                     {"internal/pki", ""},
	"clusterd/apiserver/internal/store": {"clusterd/apiserver/internal/store", log + " go.etcd.io/etcd go.uber.org/zap google.golang.org/grpc"},
	"clusterd/controller":               {"internal/api internal/client internal/reconcile", log},
	"clusterd/scheduler":                {"internal/api internal/client internal/reconcile", log + " github.com/google/btree"},
	"clusterd/dev":                      {"internal/api internal/client internal/daemon internal/pki clusterd/dev", log + " github.com/vishvananda " + sys},

	"nodeagent":                    {"nodeagent internal", log + " " + cli + " " + sys + " golang.org/x/sync github.com/prometheus"},
	"nodeagent/agent":              {"internal nodeagent", log},
	"nodeagent/pod":                {"internal/api internal/client internal/tunnel nodeagent/content nodeagent/runtime nodeagent/pod", log + " google.golang.org/grpc"},
	"nodeagent/content":            {"internal/api internal/pki", ""},
	"nodeagent/runtime":            {"nodeagent/runtime", log + " " + sys},
	"nodeagent/runtime/containerd": {"internal/registry nodeagent/runtime", log + " github.com/containerd github.com/opencontainers github.com/distribution/reference " + sys},
	"nodeagent/network":            {"internal/api nodeagent/network", log + " github.com/vishvananda github.com/google/nftables github.com/mdlayher " + sys},
	"nodeagent/proxy":              {"internal/api internal/client nodeagent/proxy", log + " github.com/vishvananda github.com/google/nftables github.com/mdlayher " + sys},
	"nodeagent/dns":                {"internal/api nodeagent/dns", log + " github.com/miekg/dns " + sys},
	"nodeagent/volume":             {"internal/api nodeagent/volume", log + " " + sys},
	"nodeagent/image":              {"internal/api internal/pki nodeagent/runtime", log},
	"nodeagent/hollow":             {"internal nodeagent", log},
	"nodeagent/clusterd-shim":      {"nodeagent/runtime", "github.com/containerd github.com/opencontainers " + sys},

	"provider":                             {"internal/api internal/client internal/pki", "github.com/hashicorp/terraform-plugin golang.org/x/sync"},
	"provider/terraform-provider-clusterd": {"provider internal/daemon", "github.com/hashicorp/terraform-plugin"},
	"packaging":                            {"", ""},
	"examples":                             {"", "github.com/google/go-containerregistry"},
}

// pkg is the part of `go list -json` that the walls look at.
type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Imports,GoFiles", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		r, ok := ruleOf(path)
		if !ok {
			t.Errorf("%s has no row in the table: add one", path)
			continue
		}
		for _, imp := range p.Imports {
			ours, isOurs := strings.CutPrefix(imp, module)
			foreign := !isOurs && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".")
			if isOurs && !within(ours, r.ours) || foreign && !within(imp, r.foreign) {
				t.Errorf("%s must not import %s", path, strings.TrimPrefix(imp, module))
			}
			if isOurs && forTests(ours) && !forTests(path) {
				t.Errorf("%s must not import %s, which is for tests", path, ours)
			}
		}
	}
}

// forTests reports whether no program may contain the package.
func forTests(path string) bool {
	return path == "internal/testcluster" || strings.HasSuffix(path, "test")
}

// TestEtcdStaysInside: of what runs, only the API server's store knows that etcd
// exists.
func TestEtcdStaysInside(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "go.etcd.io/") && !strings.Contains(p.ImportPath, "clusterd/apiserver/internal/store") && !forTests(p.ImportPath) {
				t.Errorf("%s imports %s", p.ImportPath, imp)
			}
		}
	}
}

func ruleOf(path string) (r rule, ok bool) {
	best := ""
	for at, candidate := range rules {
		if (path == at || strings.HasPrefix(path, at+"/")) && len(at) > len(best) {
			best, r, ok = at, candidate, true
		}
	}
	return r, ok
}

func within(path, allowed string) bool {
	for a := range strings.FieldsSeq(allowed) {
		if path == a || strings.HasPrefix(path, a+"/") || !strings.HasPrefix(a, "internal") && strings.HasPrefix(path, a) {
			return true
		}
	}
	return false
}

// TestPackagesSayWhatTheyAreFor requires a package comment of more than a line's worth.
func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range packages(t) {
		doc := ""
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			doc += f.Doc.Text()
		}
		if len(p.GoFiles) > 0 && len(doc) < 40 {
			t.Errorf("%s has no package comment that says its job", p.ImportPath)
		}
	}
}

const maxLines = 600

var leftBehind = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

// TestFilesAreOneIdea bounds a file's length and finds what was left behind:
// unfinished marks, init functions and global loggers.
func TestFilesAreOneIdea(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasSuffix(p.ImportPath, "internal/arch") {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := 0
			for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
				if lines++; leftBehind.Match(s.Bytes()) {
					t.Errorf("%s:%d: %s", path, lines, s.Text())
				}
			}
			if lines > maxLines {
				t.Errorf("%s has %d lines: more than one idea (%d)?", path, lines, maxLines)
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, b, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s has an init function", path)
				}
			}
		}
	}
}

// TestDependenciesHaveReasons: each direct dependency has a line in
// CONTRIBUTING.md, and each reason a dependency.
func TestDependenciesHaveReasons(t *testing.T) {
	dir := root(t)
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile(filepath.Join(dir, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]bool{}
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) == 2 && strings.Contains(f[0], "/") && strings.HasPrefix(f[1], "v") {
			direct[f[0]] = true
		}
	}
	_, table, _ := strings.Cut(string(reasons), "| module | why |")
	for _, m := range regexp.MustCompile("`([a-z]+[.][^`]+)`").FindAllStringSubmatch(table, -1) {
		if !direct[m[1]] {
			t.Errorf("CONTRIBUTING.md has a reason for %s, which is no direct dependency", m[1])
		}
		delete(direct, m[1])
	}
	for path := range direct {
		t.Errorf("CONTRIBUTING.md gives no reason for %s", path)
	}
}
