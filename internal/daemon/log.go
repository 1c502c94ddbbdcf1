package daemon

import (
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
)

// LogConfig is what the user chose of the log.
type LogConfig struct {
	Level  string // error, warn, info (default), debug, trace
	Format string // text (default), json
}

// flags is the part of flag.FlagSet and pflag.FlagSet that is needed here.
type flags interface {
	StringVar(p *string, name, value, usage string)
}

// Register adds --log-level and --log-format to f.
func (c *LogConfig) Register(f flags) {
	f.StringVar(&c.Level, "log-level", "info", "how much to log: error, warn, info, debug or trace")
	f.StringVar(&c.Format, "log-format", "text", "how to log: text or json")
}

// New returns the program's logger, which writes to w.
func (c LogConfig) New(name string, w io.Writer) (hclog.Logger, error) {
	level := hclog.Info
	if c.Level != "" {
		if level = hclog.LevelFromString(c.Level); level == hclog.NoLevel {
			return nil, fmt.Errorf("--log-level %q: want error, warn, info, debug or trace", c.Level)
		}
	}
	if c.Format != "" && c.Format != "text" && c.Format != "json" {
		return nil, fmt.Errorf("--log-format %q: want text or json", c.Format)
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, Output: w, JSONFormat: c.Format == "json"}), nil
}
