// A client of cdp with pgx: calls, a bulk load by COPY in binary format with
// typed arrays of cdp.identifier, and such an array back.
//
//	go run .            (connects by PGHOST, PGDATABASE, ...)
//
// Works through a pooler in transaction mode, too, with
// PGX_MODE=exec (no statements that stay prepared).
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// registerIdentifier makes cdp.identifier and its array known to a connection:
// in binary format, too, an identifier is its text, kind:value.
func registerIdentifier(ctx context.Context, conn *pgx.Conn) error {
	var element, array uint32
	err := conn.QueryRow(ctx, "SELECT t.oid, t.typarray FROM pg_type t WHERE t.oid = 'cdp.identifier'::regtype").
		Scan(&element, &array)
	if err != nil {
		return err
	}
	t := &pgtype.Type{Name: "cdp.identifier", OID: element, Codec: pgtype.TextCodec{}}
	conn.TypeMap().RegisterType(t)
	conn.TypeMap().RegisterType(&pgtype.Type{Name: "cdp._identifier", OID: array, Codec: &pgtype.ArrayCodec{ElementType: t}})
	return nil
}

func run(ctx context.Context) error {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return err
	}
	if os.Getenv("PGX_MODE") == "exec" {
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := registerIdentifier(ctx, conn); err != nil {
		return err
	}

	// calls: prepared once, unless a pooler is in between
	for i := 0; i < 10; i++ {
		_, err = conn.Exec(ctx, "SELECT cdp.track($1, $2::jsonb, user_id => $3, message_id => $4, source => 'go')",
			"Order Completed", `{"revenue": 10}`, "go-1", fmt.Sprintf("go-%d", i))
		if err != nil {
			return err
		}
	}

	// bulk: COPY … (FORMAT binary)
	rows := [][]any{}
	for i := 0; i < 1000; i++ {
		rows = append(rows, []any{fmt.Sprintf("go-copy-%d", i), "go", "Viewed",
			[]string{fmt.Sprintf("user_id:go-%d", i%10), fmt.Sprintf("anonymous_id:go-device-%d", i%10)},
			map[string]any{"n": i}, time.Now()})
	}
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"cdp", "events"},
		[]string{"message_id", "source", "event", "identifiers", "properties", "occurred_at"}, pgx.CopyFromRows(rows))
	if err != nil {
		return err
	}

	var applied bool
	if err := conn.QueryRow(ctx, "SELECT cdp.wait_applied('30 s')").Scan(&applied); err != nil {
		return err
	}

	// typed arrays back
	var identifiers []string
	err = conn.QueryRow(ctx, "SELECT array_agg(identifier ORDER BY identifier) FROM cdp.identities WHERE profile_id = cdp.resolve($1)",
		"user_id:go-1").Scan(&identifiers)
	if err != nil {
		return err
	}
	fmt.Println("copied", n, "applied", applied, identifiers)
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
