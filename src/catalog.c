/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  The extension's place in the catalogs: its schema, owner and relations,
 *	  the switch to its owner, the applier's lock, the lock against DROP
 *	  EXTENSION and the generation number.
 *
 *	  OIDs are looked up by name, in the system caches.  Those of the schema and
 *	  of relations are kept until some schema or relation changes, so that nothing
 *	  goes stale when the extension is dropped and made again in the same session.
 *
 * IDENTIFICATION
 *	  src/catalog.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "cdp.h"
#include "compat.h"
#include "statement.h"

/*
 * Tag of the applier's lock.  Advisory locks of users have field4 = 1 or 2,
 * so any other value is out of their reach.
 */
#define CDP_LOCK_CLASS		0xCD01

/* A relation of the schema. */
typedef struct KnownRelation
{
	char		name[NAMEDATALEN];	/* hash key */
	Oid			relid;
} KnownRelation;

static Oid	known_schema = InvalidOid;
static HTAB *known_relations = NULL;
static bool relations_stale = false;

/*
 * What is being looked up at the moment may already be something else.
 */
static void
forget_known(Datum arg, int cacheid, uint32 hashvalue)
{
	if (cacheid == NAMESPACENAME)
		known_schema = InvalidOid;
	relations_stale = true;
}

static void
watch_catalogs(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterSyscacheCallback(NAMESPACENAME, forget_known, (Datum) 0);
	CacheRegisterSyscacheCallback(RELNAMENSP, forget_known, (Datum) 0);
	registered = true;
}

Oid
CdpSchemaOid(void)
{
	if (!OidIsValid(known_schema))
	{
		watch_catalogs();
		known_schema = get_namespace_oid("cdp", false);
	}
	return known_schema;
}

/*
 * The relations that are known, none if some relation has changed since.
 */
static HTAB *
relations_known(void)
{
	HASHCTL		ctl = {0};

	if (relations_stale && known_relations != NULL)
	{
		hash_destroy(known_relations);
		known_relations = NULL;
	}
	relations_stale = false;
	if (known_relations == NULL)
	{
		watch_catalogs();
		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(KnownRelation);
		known_relations = hash_create("cdp relations", 64, &ctl, HASH_ELEM | HASH_STRINGS);
	}
	return known_relations;
}

Oid
CdpRelationOid(const char *relname)
{
	Oid			schema = CdpSchemaOid();
	HTAB	   *known = relations_known();
	KnownRelation *relation = hash_search(known, relname, HASH_FIND, NULL);
	Oid			relid;

	if (relation != NULL)
		return relation->relid;
	relid = get_relname_relid(relname, schema);
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"cdp.%s\" does not exist", relname),
				 errhint("Run CREATE EXTENSION cdp.")));
	if (!relations_stale && strlen(relname) < NAMEDATALEN)
	{
		relation = hash_search(known, relname, HASH_ENTER, NULL);
		relation->relid = relid;
	}
	return relid;
}

Oid
CdpTypeOid(const char *typname)
{
	Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(typname),
										ObjectIdGetDatum(CdpSchemaOid()));

	if (!OidIsValid(typid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type \"cdp.%s\" does not exist", typname),
				 errhint("Run CREATE EXTENSION cdp.")));
	return typid;
}

/*
 * The owner of the extension owns its schema: the install script creates the
 * schema with a bare CREATE SCHEMA.
 */
Oid
CdpExtensionOwner(void)
{
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(CdpSchemaOid()));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema cdp");
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
CdpBecomeOwner(CdpUserContext *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	SetUserIdAndSecContext(CdpExtensionOwner(),
						   saved->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	saved->pinned = CdpPlansPinned();
	saved->nest_level = NewGUCNestLevel();
	/* the applier has this path for good: setting it takes looking it up again */
	if (strcmp(namespace_search_path, CDP_SEARCH_PATH) != 0)
		(void) set_config_option("search_path", CDP_SEARCH_PATH,
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

void
CdpRestoreUser(const CdpUserContext *saved)
{
	CdpUnpinPlans(saved->pinned);
	AtEOXact_GUC(false, saved->nest_level);
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

static void
applier_lock_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, CDP_LOCK_CLASS);
}

void
CdpApplierLock(void)
{
	LOCKTAG		tag;

	applier_lock_tag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Does this transaction hold it?
 */
bool
CdpApplierLockMine(void)
{
	LOCKTAG		tag;

	applier_lock_tag(&tag);
	return CdpLockHeldByMe(&tag, ExclusiveLock);
}

bool
CdpApplierLockConditional(void)
{
	LOCKTAG		tag;

	applier_lock_tag(&tag);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Held by who changes the rules of identity, until the transaction ends.  The
 * applier does not take it: it goes on under the rules that it sees.
 */
void
CdpRulesLock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 1, CDP_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Definitions have changed: whoever applies next reloads them.  The caller
 * holds the applier's lock, so the row is not contended.
 */
void
CdpGenerationBump(void)
{
	CdpUserContext saved;

	CdpApplierLock();
	CdpBecomeOwner(&saved);
	SPI_connect();
	/*
	 * Numbers come from the clock so that an extension that is dropped and
	 * made again does not reuse one that some backend has cached.
	 */
	if (SPI_execute("INSERT INTO cdp.applier AS a (generation)"
					" VALUES (extract(epoch FROM clock_timestamp()) * 1000000)"
					" ON CONFLICT (one) DO UPDATE SET generation ="
					" greatest(a.generation + 1, excluded.generation)",
					false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not bump the generation");
	SPI_finish();
	CdpRestoreUser(&saved);
}

/* What a snapshot saw in cdp.applier. */
#define GLANCE_XIDS		32
static struct
{
	LocalTransactionId lxid;	/* invalid: nothing */
	SubTransactionId subid;
	CommandId	curcid;
	TransactionId xmin;
	TransactionId xmax;
	uint32		xcnt;
	TransactionId xip[GLANCE_XIDS];
	Oid			schema;
	int64		generation;
	TimestampTz clock;
}			glance;

/*
 * Is it the snapshot of the last glance, or one that sees the same?
 */
static bool
same_snapshot(Snapshot snapshot)
{
	return glance.lxid == CdpMyLxid &&
		glance.subid == GetCurrentSubTransactionId() &&
		glance.curcid == snapshot->curcid &&
		glance.xmin == snapshot->xmin && glance.xmax == snapshot->xmax &&
		glance.xcnt == snapshot->xcnt &&
		(glance.xcnt == 0 ||
		 memcmp(glance.xip, snapshot->xip, glance.xcnt * sizeof(TransactionId)) == 0);
}

/*
 * The generation of definitions, 0 before the first one, and the applied clock,
 * as the active snapshot sees them.  A direct look at a table of one row, and
 * one look for all calls under a snapshot: this is asked at every read.
 */
int64
CdpApplierGlance(TimestampTz *clock)
{
	Snapshot	snapshot = ActiveSnapshotSet() ? GetActiveSnapshot() : GetTransactionSnapshot();
	Oid			schema = CdpSchemaOid();
	bool		keep = snapshot->snapshot_type == SNAPSHOT_MVCC &&
		!snapshot->takenDuringRecovery && !snapshot->suboverflowed &&
		snapshot->subxcnt == 0 && snapshot->xcnt <= GLANCE_XIDS;
	Relation	rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool		isnull;

	if (!keep || glance.schema != schema ||
		glance.lxid == InvalidLocalTransactionId || !same_snapshot(snapshot))
	{
		glance.lxid = InvalidLocalTransactionId;
		glance.generation = 0;
		glance.clock = DT_NOBEGIN;
		rel = table_open(CdpRelationOid("applier"), AccessShareLock);
		scan = table_beginscan(rel, snapshot, 0, NULL);
		slot = table_slot_create(rel, NULL);
		if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			glance.generation =
				DatumGetInt64(slot_getattr(slot, get_attnum(RelationGetRelid(rel), "generation"),
										   &isnull));
			glance.clock =
				DatumGetTimestampTz(slot_getattr(slot, get_attnum(RelationGetRelid(rel), "clock"),
												 &isnull));
		}
		ExecDropSingleTupleTableSlot(slot);
		table_endscan(scan);
		/* all locks are let go of together for less */
		table_close(rel, NoLock);
		if (keep)
		{
			glance.lxid = CdpMyLxid;
			glance.subid = GetCurrentSubTransactionId();
			glance.curcid = snapshot->curcid;
			glance.xmin = snapshot->xmin;
			glance.xmax = snapshot->xmax;
			glance.xcnt = snapshot->xcnt;
			memcpy(glance.xip, snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
			glance.schema = schema;
		}
	}
	if (clock != NULL)
		*clock = glance.clock;
	return glance.generation;
}

PG_FUNCTION_INFO_V1(cdp_definitions_lock);
PG_FUNCTION_INFO_V1(cdp_definitions_changed);

/*
 * cdp.definitions_lock() returns void: CdpApplierLock for functions in SQL
 */
Datum
cdp_definitions_lock(PG_FUNCTION_ARGS)
{
	CdpApplierLock();
	PG_RETURN_VOID();
}

/*
 * cdp.definitions_changed() returns void: CdpGenerationBump for them
 */
Datum
cdp_definitions_changed(PG_FUNCTION_ARGS)
{
	CdpGenerationBump();
	PG_RETURN_VOID();
}

/*
 * The version of an extension; NULL when it is gone.
 */
static char *
extension_version(Oid extoid)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extoid));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/*
 * Look the extension up and lock it against DROP EXTENSION until the
 * transaction ends.  Whoever drops it takes this lock first, so the two
 * cannot meet in a deadlock further down.
 */
CdpExtensionState
CdpLockExtension(char **version)
{
	/* mostly the one of the batch before; made again it has another number */
	static Oid	known = InvalidOid;

	for (;;)
	{
		Oid			extoid = known;

		if (!OidIsValid(extoid))
			extoid = get_extension_oid("cdp", true);
		if (!OidIsValid(extoid))
			return CDP_EXTENSION_ABSENT;
		LockDatabaseObject(ExtensionRelationId, extoid, 0, AccessShareLock);
		*version = extension_version(extoid);
		if (*version != NULL)
		{
			known = extoid;
			return strcmp(*version, CDP_VERSION) == 0 ? CDP_EXTENSION_READY : CDP_EXTENSION_MISMATCH;
		}

		/* dropped; is there another one? */
		UnlockDatabaseObject(ExtensionRelationId, extoid, 0, AccessShareLock);
		if (!OidIsValid(known))
			return CDP_EXTENSION_ABSENT;
		known = InvalidOid;
	}
}
