/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  Tracking plans: what is wrong with the properties of entries is counted.
 *
 *	  The versions of all plans are kept in the backend by the generation of the
 *	  definitions; a schema is compiled when the first entry needs it.  Entries
 *	  are judged in a subtransaction: one on which a schema raises an error is
 *	  counted under the keyword 'error', and the rest goes on.
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

/* How much of a path is kept, in bytes. */
#define MAX_PATH 300

/* A version of a plan. */
typedef struct EventPlan
{
	CdpEntryType type;
	text *type_name;
	text *event;
	int32 version;
	TimestampTz from;
	TimestampTz until;
	Jsonb *definition;
	CdpSchema *schema; /* NULL: not compiled yet */
	struct EventPlan *next; /* of the same type and event */
	int64 judged; /* in this batch … */
	int64 violating;
} EventPlan;

typedef struct PlanSlot
{
	uint64 key; /* of type and event */
	EventPlan *plans;
} PlanSlot;

static struct
{
	MemoryContext context;
	int64 generation;
	int n;
	EventPlan *plans;
	HTAB *slots;
} cache;

typedef struct FindingKey
{
	EventPlan *plan;
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

static CdpStatement load_plans = {
	"SELECT d.type, d.event, d.version, d.schema, d.from_at,"
	" coalesce(d.until_at, 'infinity') FROM cdp.plan_definitions d"
	" WHERE d.until_at IS NULL OR d.until_at > d.from_at",
	{ NULL },
	"plan_definitions"
};

static CdpStatement write_counts = {
	"SELECT cdp.count_plans($1, $2, $3, $4, $5)",
	{ "text[]", "text[]", "int4[]", "int8[]", "int8[]" }
};

static CdpStatement write_findings = {
	"SELECT cdp.count_plan_violations($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
	{ "text[]", "text[]", "int4[]", "text[]", "text[]", "int8[]", "timestamptz[]",
	  "timestamptz[]", "int8[]", "int8[]" }
};

static uint64
key_of(CdpEntryType type, text *event)
{
	return event == NULL ? hash_bytes_extended(NULL, 0, type) :
						   hash_bytes_extended((unsigned char *) VARDATA_ANY(event),
											   VARSIZE_ANY_EXHDR(event), type);
}

static bool
same_event(text *a, text *b)
{
	int len = b == NULL ? 0 : VARSIZE_ANY_EXHDR(b);

	return VARSIZE_ANY_EXHDR(a) == len &&
		(len == 0 || memcmp(VARDATA_ANY(a), VARDATA_ANY(b), len) == 0);
}

static void
load(int64 generation)
{
	MemoryContext context;
	HASHCTL ctl = { .keysize = sizeof(uint64), .entrysize = sizeof(PlanSlot) };
	int n;

	if (cache.context != NULL && cache.generation == generation)
		return;
	if (cache.context != NULL)
		MemoryContextDelete(cache.context);
	cache.context = NULL;
	n = CdpRun(&load_plans, NULL, NULL);
	context = AllocSetContextCreate(CurrentMemoryContext, "cdp tracking plans",
									ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = context;
	cache.slots = hash_create("cdp tracking plans", Max(n, 16), &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cache.plans = MemoryContextAllocZero(context, sizeof(EventPlan) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		EventPlan *plan = &cache.plans[i];
		PlanSlot *slot;
		uint64 key;
		bool found;

		plan->type_name = (text *) CdpCellVarlena(i, 1, context);
		plan->type = CdpEntryTypeFromText(plan->type_name);
		plan->event = (text *) CdpCellVarlena(i, 2, context);
		plan->version = DatumGetInt32(CdpCell(i, 3, &found));
		plan->definition = (Jsonb *) CdpCellVarlena(i, 4, context);
		plan->from = CdpCellInt8(i, 5);
		plan->until = CdpCellInt8(i, 6);
		key = key_of(plan->type, plan->event);
		slot = hash_search(cache.slots, &key, HASH_ENTER, &found);
		plan->next = found ? slot->plans : NULL;
		slot->plans = plan;
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	MemoryContextSetParent(context, TopMemoryContext);
	cache.context = context;
	cache.n = n;
	cache.generation = generation;
}

static EventPlan *
plan_of(CdpEntry *entry)
{
	uint64 key = key_of(entry->type, entry->event);
	PlanSlot *slot = hash_search(cache.slots, &key, HASH_FIND, NULL);

	for (EventPlan *plan = slot ? slot->plans : NULL; plan != NULL; plan = plan->next)
		if (plan->type == entry->type && same_event(plan->event, entry->event) &&
			plan->from <= entry->received_at && entry->received_at < plan->until)
			return plan;
	return NULL;
}

/*
 * A path without indexes, so that it stays one for all elements of an array,
 * and of bounded length.
 */
static char *
general_path(const char *path)
{
	char *result = palloc(strlen(path) + 4);
	char *to = result;
	int len;

	while (*path != '\0')
	{
		int part = strcspn(path + 1, "/");

		*to++ = '/';
		if (part > 0 && strspn(path + 1, "0123456789") == part)
			*to++ = '*';
		else
		{
			memcpy(to, path + 1, part);
			to += part;
		}
		path += part + 1;
	}
	len = to - result;
	if (len > MAX_PATH)
		len = pg_mbcliplen(result, len, MAX_PATH);
	result[len] = '\0';
	return result;
}

static void
add_finding(HTAB *findings, EventPlan *plan, CdpEntry *entry, const char *path, const char *keyword)
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
judge(HTAB *findings, EventPlan *plan, CdpEntry *entry, MemoryContext scratch)
{
	MemoryContext old = MemoryContextSwitchTo(scratch);
	Jsonb *properties = entry->properties;
	List *violations = NIL;
	ListCell *lc;

	if (plan->schema == NULL)
	{
		MemoryContext own = AllocSetContextCreate(scratch, "cdp tracking plan", ALLOCSET_SMALL_SIZES);

		plan->schema = CdpSchemaCompile(plan->definition, own);
		MemoryContextSetParent(own, cache.context);
	}
	if (properties == NULL)
		properties = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	(void) CdpSchemaValidate(plan->schema, properties, &violations);
	foreach(lc, violations)
		((CdpSchemaViolation *) lfirst(lc))->path =
			general_path(((CdpSchemaViolation *) lfirst(lc))->path);
	MemoryContextSwitchTo(old);

	plan->judged++;
	plan->violating += violations != NIL;
	foreach(lc, violations)
	{
		CdpSchemaViolation *violation = lfirst(lc);

		add_finding(findings, plan, entry, violation->path, violation->keyword);
	}
	MemoryContextReset(scratch);
}

/*
 * Judge all; an entry on which an error is raised counts as one.
 */
static void
judge_all(HTAB *findings, EventPlan **plans, CdpEntry **entries, int n)
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
				judge(findings, plans[i], entries[i], scratch);
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
			add_finding(findings, plans[i], entries[i], "", "error");
			i++;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	MemoryContextDelete(scratch);
}

static void
write_judged(void)
{
	Datum *types = palloc_array(Datum, cache.n);
	Datum *events = palloc_array(Datum, cache.n);
	int32 *versions = palloc_array(int32, cache.n);
	int64 *judged = palloc_array(int64, cache.n);
	int64 *violating = palloc_array(int64, cache.n);
	Datum args[5];
	int n = 0;

	for (int i = 0; i < cache.n; i++)
	{
		EventPlan *plan = &cache.plans[i];

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
		EventPlan *plan = finding->key.plan;

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
CdpPlansJudge(CdpEntry **entries, int n, int64 generation)
{
	HASHCTL ctl = { .keysize = sizeof(FindingKey), .entrysize = sizeof(Finding) };
	HTAB *findings;
	EventPlan **plans;
	CdpEntry **judged;
	int njudged = 0;

	if (n == 0 || CdpTableIsVoid("plan_definitions"))
		return;
	load(generation);
	plans = palloc_array(EventPlan *, n);
	judged = palloc_array(CdpEntry *, n);
	for (int i = 0; i < cache.n; i++)
		cache.plans[i].judged = cache.plans[i].violating = 0;
	for (int i = 0; i < n; i++)
		if ((plans[njudged] = plan_of(entries[i])) != NULL)
			judged[njudged++] = entries[i];
	if (njudged == 0)
		return;
	ctl.hcxt = CurrentMemoryContext;
	findings = hash_create("cdp findings of tracking plans", 64, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	judge_all(findings, plans, judged, njudged);
	write_judged();
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
