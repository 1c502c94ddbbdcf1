package store

import (
	"strings"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap/zapcore"
)

// logCore writes etcd's log to hclog, one level lower than etcd thinks: what
// it calls info is only of use to who debugs it.
type logCore struct {
	log    hclog.Logger
	fields []zapcore.Field
}

// usual are messages etcd logs as warnings or errors in the normal course of events.
var usual = []string{
	"setting up serving from embedded etcd failed", // said of each listener by every Close
	"serving client traffic insecurely",            // the private socket
	"error encountered while removing",
	"failed to update storage version",             // of a new member, until its first term is on disk
	"Running http and grpc server on single port",  // the private socket has no other
	"stopping insecure grpc server due to error",   // likewise, at each Close
	"simple token is not cryptographically signed", // its authentication is not used
}

// Enabled implements zapcore.LevelEnabler.
func (c logCore) Enabled(l zapcore.Level) bool {
	switch {
	case l >= zapcore.ErrorLevel:
		return c.log.IsWarn()
	case l == zapcore.WarnLevel:
		return c.log.IsInfo()
	case l == zapcore.InfoLevel:
		return c.log.IsDebug()
	}
	return c.log.IsTrace()
}

// With implements zapcore.Core.
func (c logCore) With(f []zapcore.Field) zapcore.Core {
	return logCore{c.log, append(c.fields[:len(c.fields):len(c.fields)], f...)}
}

// Check implements zapcore.Core.
func (c logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := hclog.Debug
	switch {
	case e.Level >= zapcore.DPanicLevel:
		level = hclog.Error // the process is about to end
	case e.Level == zapcore.ErrorLevel:
		level = hclog.Warn
	case e.Level == zapcore.WarnLevel:
		level = hclog.Info
	}
	for _, u := range usual {
		if strings.HasPrefix(e.Message, u) {
			level = hclog.Trace
		}
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	var args []any
	for k, v := range enc.Fields {
		args = append(args, strings.ReplaceAll(k, "-", "_"), v)
	}
	c.log.Log(level, e.Message, args...)
	return nil
}

// Sync implements zapcore.Core.
func (c logCore) Sync() error { return nil }
