/*-------------------------------------------------------------------------
 *
 * audit.c
 *	  Who changed what: entries of the audit and their seals.
 *
 *	  Whoever acts only inserts a row, so that nobody waits for another's
 *	  transaction.  The applier, of which there is one, chains the rows that
 *	  have been committed: when a batch has decisions in it, and when it looks
 *	  for work and finds none.  The tables, the hash and the checks are SQL, in
 *	  sql/trust/audit.sql.
 *
 * IDENTIFICATION
 *	  src/trust/audit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "cdp.h"
#include "collect/collect.h"
#include "statement.h"
#include "trust/audit.h"

static CdpStatement record_entry = {
	"WITH noted AS ("
	" INSERT INTO cdp.audit_entries (action, object, detail)"
	" VALUES ($1, $2, coalesce($3, '{}')) RETURNING id)"
	" INSERT INTO cdp.audit_unsealed SELECT id FROM noted",
	{ "text", "text", "jsonb" }
};

static CdpStatement record_decisions = {
	"SELECT cdp.audit_decisions($1, $2)",
	{ "int8[]", "int8[]" }
};

static CdpStatement any_unsealed = {
	"SELECT FROM cdp.audit_unsealed LIMIT 1",
	{ NULL },
	"audit_unsealed"
};

static CdpStatement seal_entries = {
	"SELECT cdp.audit_seal()",
	{ NULL }
};

PG_FUNCTION_INFO_V1(cdp_audit_record);

/*
 * cdp.audit_record(action text, object text, detail jsonb) returns void
 *
 * The role that the caller has set is not the one that this runs as, and the
 * columns' defaults take neither: they take the role that logged in and the
 * setting "role".
 */
Datum
cdp_audit_record(PG_FUNCTION_ARGS)
{
	Datum args[3];
	char nulls[4] = "   ";
	CdpUserContext saved;
	int i;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("action must not be null")));
	for (i = 0; i < 3; i++)
	{
		args[i] = PG_GETARG_DATUM(i);
		if (PG_ARGISNULL(i))
			nulls[i] = 'n';
	}
	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRun(&record_entry, args, nulls);
	SPI_finish();
	CdpRestoreUser(&saved);
	CdpWakeAtCommit();
	PG_RETURN_VOID();
}

void
CdpAuditDecisions(const int64 *entries, const int64 *xids, int n)
{
	Datum args[2];

	if (n == 0)
		return;
	args[0] = CdpInt8Array(entries, n);
	args[1] = CdpInt8Array(xids, n);
	CdpRun(&record_decisions, args, NULL);
}

void
CdpAuditSeal(void)
{
	if (CdpRun(&any_unsealed, NULL, NULL) > 0)
		CdpRun(&seal_entries, NULL, NULL);
}
