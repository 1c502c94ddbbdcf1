// Package settings lets an operator tell a daemon its settings in whichever of
// three ways suits: a flag, an environment variable, a line of an HCL file.
//
// Invariants: a setting has one name, which a flag writes with dashes, the file
// with underscores, and the environment in capitals after CLUSTERD_; the flag
// wins over the environment, and that over the file; what no setting is called
// is an error that says where it stands.
package settings

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// prefix of all variables of the environment.
const prefix = "CLUSTERD_"

// file is the flag that names the file.
const file = "config"

// Attach lets the flags that cmd has now be set by a file and by the
// environment too, but for those named: secrets, which have their own ways.
func Attach(cmd *cobra.Command, but ...string) {
	own := map[string]*pflag.Flag{} // by the name in the file
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !slices.Contains(but, f.Name) {
			own[strings.ReplaceAll(f.Name, "-", "_")] = f
		}
	})
	path := cmd.Flags().String(file, "", "HCL file of settings, which are called as these flags, with _ for -; they may be variables too, such as "+Env("log-level")+" ("+Env(file)+")")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		return load(cmp.Or(*path, os.Getenv(Env(file))), own, os.LookupEnv)
	}
}

// Env is the variable of a flag.
func Env(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// load sets the flags that the command line has not: from the environment, else
// from the file.
func load(path string, own map[string]*pflag.Flag, env func(string) (string, bool)) error {
	given := map[string]bool{}
	for name, f := range own {
		if f.Changed {
			given[name] = true
			continue
		}
		text, ok := env(Env(f.Name))
		if !ok || text == "" {
			continue
		}
		if err := f.Value.Set(text); err != nil {
			return fmt.Errorf("%s: want what --%s takes: %w", Env(f.Name), f.Name, err)
		}
		given[name] = true
	}
	if path == "" {
		return nil
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--%s: %w", file, err)
	}
	attrs, err := parse(path, src)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		at := fmt.Sprintf("%s:%d", path, a.NameRange.Start.Line)
		f := own[a.Name]
		if f == nil {
			return fmt.Errorf("%s: no setting is called %s: %s", at, a.Name, wayOut(own))
		}
		v, err := evaluate(a.Expr)
		if err == nil && !given[a.Name] {
			err = set(f, v)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", at, a.Name, err)
		}
	}
	return nil
}

// parse reads the lines of a file, in their order.
func parse(path string, src []byte) ([]*hcl.Attribute, error) {
	f, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, located(diags)
	}
	byName, diags := f.Body.JustAttributes()
	if diags.HasErrors() {
		return nil, located(diags)
	}
	var attrs []*hcl.Attribute
	for _, a := range byName {
		attrs = append(attrs, a)
	}
	slices.SortFunc(attrs, func(a, b *hcl.Attribute) int { return a.Range.Start.Byte - b.Range.Start.Byte })
	return attrs, nil
}

// located is the first of the diagnostics, as file:line: what is wrong.
func located(diags hcl.Diagnostics) error {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		if d.Subject == nil {
			return fmt.Errorf("%s: %s", d.Summary, d.Detail)
		}
		return fmt.Errorf("%s:%d: %s: %s", d.Subject.Filename, d.Subject.Start.Line, d.Summary, d.Detail)
	}
	return nil
}

// wayOut is what to write instead of a name that is unknown.
func wayOut(own map[string]*pflag.Flag) string {
	return "want one of " + strings.Join(slices.Sorted(maps.Keys(own)), ", ")
}
