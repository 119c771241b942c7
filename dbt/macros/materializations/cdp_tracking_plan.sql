{# A model is a tracking plan: its text is the JSON Schema that properties of the
   event are judged by. The view of that name has what was wrong with entries. #}
{% materialization cdp_tracking_plan, adapter='postgres' %}
  {% set type = config.get('type', 'track') %}
  {% set event = config.get('event') %}
  {% set object = {'schema': fromjson(sql)} %}
  {% if config.get('mode') is not none %}{% do object.update({'mode': config.get('mode')}) %}{% endif %}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}
  {% do cdp.cdp_apply('tracking_plans', type ~ (':' ~ event if event else ''), object) %}
  {% set target_relation = cdp.cdp_view("select version, path, keyword, entries, first_at, last_at, entry from cdp.plan_violations where type = "
      ~ dbt.string_literal(type) ~ " and event = " ~ dbt.string_literal(event or '')) %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do adapter.commit() %}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
