/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  Tracking plans: what is wrong with the properties of entries is counted.
 *
 *	  What follows from it for an entry is in plan_set.c; here are the numbers.
 *	  Entries are judged in a subtransaction: one on which a schema raises an
 *	  error is counted under the keyword 'error', and the rest goes on.
 *
 * IDENTIFICATION
 *	  src/trust/plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "apply/isolate.h"
#include "cdp.h"
#include "statement.h"
#include "trust/plan.h"
#include "trust/schema.h"

typedef struct FindingKey
{
	CdpPlan *plan;
	uint64 hash; /* of path and keyword */
} FindingKey;

/* A path and keyword at which entries of this batch break a plan. */
typedef struct Finding
{
	FindingKey key;
	char *path;
	char *keyword;
	int64 entries;
	TimestampTz first;
	TimestampTz last;
	CdpEntry *entry; /* the first in the log: the batch's order is that of event time */
	CdpEntry *last_entry; /* in which it was counted */
} Finding;

static CdpStatement write_counts = {
	"SELECT cdp.count_plans($1, $2, $3, $4, $5)",
	{ "text[]", "text[]", "int4[]", "int8[]", "int8[]" }
};

static CdpStatement write_findings = {
	"SELECT cdp.count_plan_violations($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
	{ "text[]", "text[]", "int4[]", "text[]", "text[]", "int8[]", "timestamptz[]",
	  "timestamptz[]", "int8[]", "int8[]" }
};

static void
add_finding(HTAB *findings, CdpPlan *plan, CdpEntry *entry, const char *path, const char *keyword)
{
	FindingKey key;
	Finding *finding;
	bool found;

	memset(&key, 0, sizeof(key));
	key.plan = plan;
	key.hash = hash_bytes_extended((const unsigned char *) path, strlen(path),
								   hash_bytes_extended((const unsigned char *) keyword,
													   strlen(keyword), 0));
	finding = hash_search(findings, &key, HASH_ENTER, &found);
	if (!found)
	{
		finding->path = pstrdup(path);
		finding->keyword = pstrdup(keyword);
		finding->entries = 0;
		finding->first = finding->last = entry->received_at;
		finding->entry = entry;
		finding->last_entry = NULL;
	}
	if (finding->last_entry == entry)
		return;
	finding->last_entry = entry;
	finding->entries++;
	if (entry->id < finding->entry->id)
		finding->entry = entry;
	finding->first = Min(finding->first, entry->received_at);
	finding->last = Max(finding->last, entry->received_at);
}

/*
 * Judge one entry; what is wrong with it is added when all of it is known.
 */
static void
judge(HTAB *findings, CdpPlanSet *set, CdpPlan *plan, CdpEntry *entry, MemoryContext scratch)
{
	MemoryContext old = MemoryContextSwitchTo(scratch);
	/* what a plan does more than count for is known */
	List *violations = entry->plan == plan && plan->mode != CDP_PLAN_ALLOW ?
		entry->violations :
		CdpPlanViolations(set, plan, entry);
	List *paths = NIL;
	ListCell *lc;
	ListCell *p;

	foreach(lc, violations)
		paths = lappend(paths, CdpPlanPath(((CdpSchemaViolation *) lfirst(lc))->path));
	MemoryContextSwitchTo(old);

	plan->judged++;
	plan->violating += violations != NIL;
	forboth(lc, violations, p, paths)
		add_finding(findings, plan, entry, lfirst(p), ((CdpSchemaViolation *) lfirst(lc))->keyword);
	MemoryContextReset(scratch);
}

/*
 * Judge all; an entry on which an error is raised counts as one.
 */
static void
judge_all(HTAB *findings, CdpPlanSet *set, CdpPlan **plans, CdpEntry **entries, int n)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext scratch = AllocSetContextCreate(context, "cdp judged entry",
												  ALLOCSET_DEFAULT_SIZES);
	volatile int i = 0;

	while (i < n)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			for (; i < n; i++)
			{
				CHECK_FOR_INTERRUPTS();
				judge(findings, set, plans[i], entries[i], scratch);
			}
			ReleaseCurrentSubTransaction();
		}
		PG_CATCH();
		{
			ErrorData *error;

			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
			if (CdpErrorIsTransient(error->sqlerrcode))
				ReThrowError(error);
			FreeErrorData(error);
			MemoryContextReset(scratch);
			plans[i]->judged++;
			plans[i]->violating++;
			add_finding(findings, plans[i], entries[i], "", CDP_SCHEMA_ERROR);
			i++;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	MemoryContextDelete(scratch);
}

static void
write_judged(CdpPlanSet *set)
{
	Datum *types = palloc_array(Datum, set->n);
	Datum *events = palloc_array(Datum, set->n);
	int32 *versions = palloc_array(int32, set->n);
	int64 *judged = palloc_array(int64, set->n);
	int64 *violating = palloc_array(int64, set->n);
	Datum args[5];
	int n = 0;

	for (int i = 0; i < set->n; i++)
	{
		CdpPlan *plan = &set->plans[i];

		if (plan->judged == 0)
			continue;
		types[n] = PointerGetDatum(plan->type_name);
		events[n] = PointerGetDatum(plan->event);
		versions[n] = plan->version;
		judged[n] = plan->judged;
		violating[n++] = plan->violating;
	}
	args[0] = CdpVarlenaArray(types, NULL, n, TEXTOID);
	args[1] = CdpVarlenaArray(events, NULL, n, TEXTOID);
	args[2] = CdpInt4Array(versions, n);
	args[3] = CdpInt8Array(judged, n);
	args[4] = CdpInt8Array(violating, n);
	CdpRunHere(&write_counts, args, NULL);
}

static void
write_found(HTAB *findings)
{
	int max = hash_get_num_entries(findings);
	Datum *texts[4];
	int32 *versions = palloc_array(int32, max);
	int64 *numbers[3];
	TimestampTz *firsts = palloc_array(TimestampTz, max);
	TimestampTz *lasts = palloc_array(TimestampTz, max);
	Datum args[10];
	HASH_SEQ_STATUS scan;
	Finding *finding;
	int n = 0;

	for (int i = 0; i < 4; i++)
		texts[i] = palloc_array(Datum, max);
	for (int i = 0; i < 3; i++)
		numbers[i] = palloc_array(int64, max);
	hash_seq_init(&scan, findings);
	while ((finding = hash_seq_search(&scan)) != NULL)
	{
		CdpPlan *plan = finding->key.plan;

		texts[0][n] = PointerGetDatum(plan->type_name);
		texts[1][n] = PointerGetDatum(plan->event);
		versions[n] = plan->version;
		texts[2][n] = CStringGetTextDatum(finding->path);
		texts[3][n] = CStringGetTextDatum(finding->keyword);
		numbers[0][n] = finding->entries;
		firsts[n] = finding->first;
		lasts[n] = finding->last;
		numbers[1][n] = finding->entry->id;
		numbers[2][n++] = finding->entry->xid;
	}
	args[0] = CdpVarlenaArray(texts[0], NULL, n, TEXTOID);
	args[1] = CdpVarlenaArray(texts[1], NULL, n, TEXTOID);
	args[2] = CdpInt4Array(versions, n);
	args[3] = CdpVarlenaArray(texts[2], NULL, n, TEXTOID);
	args[4] = CdpVarlenaArray(texts[3], NULL, n, TEXTOID);
	args[5] = CdpInt8Array(numbers[0], n);
	args[6] = CdpTimestampArray(firsts, n);
	args[7] = CdpTimestampArray(lasts, n);
	args[8] = CdpInt8Array(numbers[1], n);
	args[9] = CdpInt8Array(numbers[2], n);
	CdpRunHere(&write_findings, args, NULL);
}

void
CdpPlansJudge(CdpEntry **entries, int n)
{
	HASHCTL ctl = { .keysize = sizeof(FindingKey), .entrysize = sizeof(Finding) };
	HTAB *findings;
	CdpPlanSet *set;
	CdpPlan **plans;
	CdpEntry **judged;
	int njudged = 0;

	if (n == 0 || CdpTableIsVoid("plan_definitions"))
		return;
	set = CdpPlanSetNow();
	plans = palloc_array(CdpPlan *, n);
	judged = palloc_array(CdpEntry *, n);
	for (int i = 0; i < set->n; i++)
		set->plans[i].judged = set->plans[i].violating = 0;
	for (int i = 0; i < n; i++)
		if ((plans[njudged] = CdpPlanOf(set, entries[i])) != NULL)
			judged[njudged++] = entries[i];
	if (njudged == 0)
		return;
	ctl.hcxt = CurrentMemoryContext;
	findings = hash_create("cdp findings of tracking plans", 64, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	judge_all(findings, set, plans, judged, njudged);
	write_judged(set);
	if (hash_get_num_entries(findings) > 0)
		write_found(findings);
	hash_destroy(findings);
}

PG_FUNCTION_INFO_V1(cdp_schema_check);

/*
 * cdp.schema_check(jsonb) returns void: error for what is no schema
 */
Datum
cdp_schema_check(PG_FUNCTION_ARGS)
{
	(void) CdpSchemaCompile(PG_GETARG_JSONB_P(0), CurrentMemoryContext);
	PG_RETURN_VOID();
}
