package server

import (
	"encoding/json"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
)

// AuditOff as Config.AuditLog says that no audit log is kept.
const AuditOff = "off"

const auditFile = "audit.log"

// Bounds of the audit log: what is older goes.
const (
	auditMegabytes = 50 // of one file
	auditFiles     = 10 // that are full
)

// auditLog writes what was done to a file that only its owner reads, a line of
// JSON each; full files are kept beside it for a while. A disk that takes no
// more lines stops nobody's work: the server's log says so.
type auditLog struct {
	file   lumberjack.Logger
	server string
	log    hclog.Logger
	broken atomic.Bool
}

// openAudit returns the log that path names, nil for none.
func openAudit(path, server string, log hclog.Logger) *auditLog {
	if path == "" {
		return nil
	}
	return &auditLog{file: lumberjack.Logger{Filename: path, MaxSize: auditMegabytes, MaxBackups: auditFiles}, server: server, log: log}
}

// Record implements apiserver.Auditor.
func (a *auditLog) Record(e apiserver.AuditEntry) {
	line, err := json.Marshal(struct {
		apiserver.AuditEntry
		Server string `json:"server"`
	}{e, a.server})
	if err == nil {
		_, err = a.file.Write(append(line, '\n'))
	}
	if was := a.broken.Swap(err != nil); err != nil && !was {
		a.log.Error("what is done is not on record", "path", a.file.Filename, "error", err)
	} else if err == nil && was {
		a.log.Info("what is done is on record again", "path", a.file.Filename)
	}
}

func (a *auditLog) Close() error { return a.file.Close() }
